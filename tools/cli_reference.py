"""Write `docs/reference/cli.md` from the `--help` of every command."""

import os
import subprocess
import sys
from pathlib import Path

from tilth.cli.main import COMMANDS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "cli.md"
WIDTH = 100

_HEAD = """# Command line

Made from `--help` by `python tools/cli_reference.py`; a test compares this page with the program.
Exit codes are in [exit-codes.md](exit-codes.md). Every command has `--json`.

| variable | what it does |
|---|---|
| `TILTH_CACHE` | the folder that searches are kept in, instead of `tilth` in the user's cache folder |
| `TILTH_HOME` | the folder of the control plane of this machine, where `--home` names none |
| `TILTH_STORE` | the address of its database, where `--store` names none |
| `TILTH_OIDC_SECRET` | its client secret at the identity provider, where `--oidc-secret-file` names none |
| `TILTH_URL`, `TILTH_TOKEN` | the control plane of commands, and who you are there; both, or what `tilth login` keeps |
| `TILTH_CA` | with these, a PEM file of the authority that its certificate is from |
| `TILTH_PROJECT` | the project of commands that name none |
| `TILTH_LOGIN` | the file that `tilth login` keeps, instead of `tilth/login.json` in the user's configuration folder |
| `TILTH_DEBUG=1` | shows the traceback of an error |
| `TILTH_NULL_DEVICE=1` | adds a device `null:0` of target `null`, for tests without hardware |
| `NO_COLOR` | turns colours off |
| `COLUMNS` | the width of the text; without it a terminal says, and a pipe gets 120 |
"""


def page() -> str:
    """Return the whole page. A command whose module cannot be loaded fails the run.

    Raises:
        CalledProcessError: a `--help` exits with an error.
    """
    parts = [_HEAD, _section("tilth", _help())]
    parts += [_section(f"tilth {name}", _help(name)) for name, _, _ in COMMANDS]
    return "\n".join(parts)


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n```text\n{text}```\n"


def _help(*command: str) -> str:
    # The width and the shell of whoever runs this must not show in the page.
    environment = {**os.environ, "COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH), "NO_COLOR": "1"}
    for name in ("FORCE_COLOR", "PY_COLORS", "TILTH_DEBUG"):
        environment.pop(name, None)
    run = [sys.executable, "-m", "tilth", *command, "--help"]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(PAGE.parent.parent.parent)}")
