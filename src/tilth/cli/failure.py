"""How every failure is told, and which exit code it gives."""

import errno
import os
import sys
import traceback
from typing import Any

from tilth.cli.plain import print_json, visible
from tilth.core.errors import CancelledError, MissingError, TilthError, UnavailableError

USAGE_CODE = 2
#: What rich and the CLI library exit with, too, when the reader of the output has gone.
PIPE_CODE = 1

# Each of these means: nothing is wrong with the input, make room or get access, then try again.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOMEM, errno.EMFILE}


def tell(error: BaseException, as_json: bool) -> int:
    """Print an error on stderr, or as a JSON object on stdout, and return the exit code.

    With `TILTH_DEBUG=1` in the environment the traceback comes first, on stderr.
    """
    record, code = described(error)
    if os.environ.get("TILTH_DEBUG") == "1":
        traceback.print_exception(error)
    if as_json:
        print_json(record)
    else:
        told = TilthError(record["what"], why=record["why"], hint=record["hint"])
        sys.stderr.write(visible(str(told)) + "\n")
    return code


def described(error: BaseException) -> tuple[dict[str, str], int]:
    """Return an error as the object that `--json` prints, with its exit code."""
    if isinstance(error, OSError):
        error = _from_os(error)
    if isinstance(error, TilthError):
        return error.as_json(), error.exit_code
    if hasattr(error, "format_message"):
        return _usage(error), USAGE_CODE
    record = TilthError(
        f"unexpected {type(error).__name__}: {error}",
        why="this is a defect in Tilth or in a plug-in, not in what you typed",
        hint="set TILTH_DEBUG=1 to see the traceback, and report it with the output of `tilth doctor --json`",
    )
    return record.as_json() | {"error": "InternalError"}, record.exit_code


def interrupted() -> CancelledError:
    """Return Ctrl-C as an error like every other."""
    return CancelledError("stopped by Ctrl-C", hint="run the same command again; what was finished is kept")


def stop_writing() -> int:
    """Give up stdout after its reader has gone, and return the exit code."""
    # What is left in the buffer would fail once more when Python exits, and print that it did.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CODE


def _usage(error: Any) -> dict[str, str]:
    path = error.ctx.command_path if getattr(error, "ctx", None) else "tilth"
    made = TilthError(error.format_message(), hint=f"run `{path} --help` to see what it takes")
    return made.as_json() | {"error": "UsageError"}


def _from_os(error: OSError) -> BaseException:
    place = f"`{error.filename}`: " if error.filename else ""
    what = f"{place}{error.strerror or error}"
    if isinstance(error, FileNotFoundError):
        return MissingError(what, hint="check the path")
    if error.errno in _NO_ROOM:
        return UnavailableError(what, why="the system refused", hint="make room or get access, then run it again")
    return error
