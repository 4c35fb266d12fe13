"""How long do `import tilth` and `tilth --help` take, beside a bare interpreter in the same run?"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import tilth": [sys.executable, "-c", "import tilth"],
    "tilth --help": [str(Path(sys.executable).with_name("tilth")), "--help"],
    "import onnxruntime": [sys.executable, "-c", "import onnxruntime"],
}
#: In milliseconds, over the bare interpreter for an import.
BARS = {"import tilth": 100, "tilth --help": 250}


def main() -> None:
    """Run every command in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.runs + 1):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            taken[name].append((time.perf_counter() - start) * 1e3)
    print(f"{'command':<20} {'median ms':>10} {'min':>7} {'max':>7}  bar")
    for name, values in taken.items():
        own = values[1:]  # the first run fills the disk cache
        print(f"{name:<20} {statistics.median(own):10.0f} {min(own):7.0f} {max(own):7.0f}  {BARS.get(name, '')}")
    bare = statistics.median(taken["python -c pass"][1:])
    print(f"import tilth alone: {statistics.median(taken['import tilth'][1:]) - bare:.0f} ms over the interpreter")
    if options.json:
        options.json.write_text(json.dumps(taken, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
