"""Run every check of `make check`, all of them even when one fails, with one line for each."""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_PYTHON = sys.executable

STEPS: tuple[tuple[str, list[str]], ...] = (
    ("format", [_PYTHON, "-m", "ruff", "format", "--check", "."]),
    ("lint", [_PYTHON, "-m", "ruff", "check", "."]),
    ("types", [_PYTHON, "-m", "mypy"]),
    ("layers", [str(Path(_PYTHON).with_name("lint-imports")), "--no-logo"]),
    ("size", [_PYTHON, "tools/size_budget.py"]),
    ("docs", [_PYTHON, "-m", "pytest", "-q", "tests/docs"]),
)


def run(command: list[str]) -> tuple[int, str]:
    """Return a command's exit code and all that it printed."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    except FileNotFoundError:
        return 127, f"`{command[0]}` is not installed; run `make check`, which installs it\n"
    return done.returncode, done.stdout


def main() -> int:
    """Run the steps and return 1 when one of them failed."""
    failed = []
    for name, command in STEPS:
        start = time.perf_counter()
        code, printed = run(command)
        print(f"{'ok  ' if code == 0 else 'FAIL'} {name:<7} {time.perf_counter() - start:5.1f} s", flush=True)
        if code:
            failed.append(name)
            print(printed, flush=True)
    print(f"failed: {', '.join(failed)}" if failed else f"all {len(STEPS)} checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
