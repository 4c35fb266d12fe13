"""`python -m tilth` is the `tilth` command."""

import sys

from tilth.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
