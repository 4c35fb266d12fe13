"""Fail when a source file is longer than the budget and no written waiver says why."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WAIVERS = ROOT / "tools" / "size_waivers.txt"
MOST_LINES = 600
THOUGHT_LINES = 400


def waived(text: str) -> dict[str, str]:
    """Return the reasons by file from lines of `path: reason`; empty lines and `#` are comments.

    Raises:
        ValueError: a waiver has no reason.
    """
    found = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            path, _, reason = line.partition(":")
            if not reason.strip():
                raise ValueError(f"the waiver for `{path.strip()}` has no reason")
            found[path.strip()] = reason.strip()
    return found


def judge(lines: dict[str, int], waivers: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return what fails and what deserves a thought, each one line, longest file first."""
    failures, thoughts = [], []
    for path, count in sorted(lines.items(), key=lambda item: (-item[1], item[0])):
        if count > MOST_LINES and path not in waivers:
            failures.append(f"{path}: {count} lines > {MOST_LINES}; split it, or write why not in {WAIVERS.name}")
        elif count > THOUGHT_LINES:
            thoughts.append(f"{path}: {count} lines" + (f", waived: {waivers[path]}" if path in waivers else ""))
    failures += [
        f"{path}: waived, and not longer than {MOST_LINES} lines; remove the waiver"
        for path in sorted(waivers)
        if lines.get(path, 0) <= MOST_LINES
    ]
    return failures, thoughts


def main() -> int:
    """Print the verdict and return the exit code."""
    files = sorted((ROOT / "src").rglob("*.py"))
    lines = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    waivers = waived(WAIVERS.read_text(encoding="utf-8")) if WAIVERS.exists() else {}
    failures, thoughts = judge(lines, waivers)
    for line in [*thoughts, *failures]:
        print(line)
    small = sum(count < 200 for count in lines.values())
    print(f"{len(lines)} files, {sum(lines.values())} lines, {small} files below 200 lines, {len(failures)} to fix")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
