"""The `tilth` command: laziness, failures and exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tilth.cli import failure
from tilth.cli.main import COMMANDS, LazyCommand, main
from tilth.core import errors

SUBCLASSES = [errors.TilthError, *errors.TilthError.__subclasses__()]


def tilth(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    run = [sys.executable, "-m", "tilth", *arguments]
    return subprocess.run(run, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[tuple[str, str, str], ...]:
    """Commands that fail in every way there is."""
    (tmp_path / "ways_to_fail.py").write_text(
        '''
import errno
from typing import Annotated
import typer
from tilth.cli.output import AsJson
from tilth.core.errors import RefusedError

def command(kind: Annotated[str, typer.Argument(help="How.")], as_json: AsJson = False) -> None:
    """Fail in one way.

    More words.

    Raises:
        Everything: that there is.
    """
    if kind == "refused":
        raise RefusedError("no build agrees", why="two differ", hint="run `tilth explain`")
    if kind == "ctrl-c":
        raise KeyboardInterrupt
    if kind == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "m.tilth")
    if kind == "gone":
        open("/nowhere/m.tilth")
    if kind == "bell":
        raise RefusedError("name \\x1b[2J\\x07")
    raise ZeroDivisionError("by \\u00e9")
''',
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return (("fail", "ways_to_fail", "Fail in one way."),)


def test_help_and_a_typo_load_no_command() -> None:
    script = (
        "import sys\n"
        "from tilth.cli.main import main\n"
        "assert main(['--help']) == 0\n"
        "assert main(['bild']) == 2\n"
        "loaded = [m for m in sys.modules if m.startswith('tilth.cli.')]\n"
        "assert set(loaded) <= {'tilth.cli.main', 'tilth.cli.failure', 'tilth.cli.plain'}, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for name, _, summary in COMMANDS:
        assert name in done.stdout and summary in done.stdout


def test_a_typo_is_answered_with_the_nearest_command() -> None:
    done = tilth("devcies")
    assert done.returncode == 2
    assert "Did you mean 'devices'" in done.stderr
    assert "hint: run `tilth --help`" in done.stderr
    assert done.stdout == ""


def test_a_wrong_option_is_one_json_object_where_json_is_asked_for() -> None:
    done = tilth("devices", "--json", "--colour")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"] == "UsageError"
    assert "tilth devices --help" in json.loads(done.stdout)["hint"]
    assert done.stderr == ""


def test_the_version_is_the_packages() -> None:
    import tilth as package

    assert tilth("--version").stdout == f"tilth {package.__version__}\n"


def test_no_command_shows_the_help_on_stdout() -> None:
    assert tilth().stdout == tilth("--help").stdout


def test_a_refusal_says_what_why_and_what_to_try(table, capsys) -> None:
    assert main(["fail", "refused"], table) == 6
    shown = capsys.readouterr()
    assert shown.err == "no build agrees\n  why:  two differ\n  hint: run `tilth explain`\n"
    assert shown.out == ""


def test_a_refusal_is_json_on_stdout_where_json_is_asked_for(table, capsys) -> None:
    assert main(["fail", "refused", "--json"], table) == 6
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "error": "RefusedError",
        "what": "no build agrees",
        "why": "two differ",
        "hint": "run `tilth explain`",
    }
    assert shown.err == ""


def test_ctrl_c_is_one_line_and_130(table, capsys) -> None:
    assert main(["fail", "ctrl-c"], table) == 130
    shown = capsys.readouterr().err
    assert shown.startswith("stopped by Ctrl-C\n")
    assert "Traceback" not in shown


def test_an_unforeseen_failure_is_told_without_a_traceback(table, capsys, monkeypatch) -> None:
    monkeypatch.delenv("TILTH_DEBUG", raising=False)
    assert main(["fail", "else"], table) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("unexpected ZeroDivisionError: by é\n")
    assert "TILTH_DEBUG=1" in shown and "Traceback" not in shown


def test_the_traceback_can_be_asked_for(table, capsys, monkeypatch) -> None:
    monkeypatch.setenv("TILTH_DEBUG", "1")
    assert main(["fail", "else"], table) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_and_a_missing_file_are_not_called_defects(table, capsys) -> None:
    assert main(["fail", "full"], table) == 8
    assert "`m.tilth`: No space left on device" in capsys.readouterr().err
    assert main(["fail", "gone"], table) == 7
    assert "/nowhere/m.tilth" in capsys.readouterr().err


def test_a_name_cannot_steer_the_terminal(table, capsys) -> None:
    main(["fail", "bell"], table)
    shown = capsys.readouterr().err
    assert "\x1b" not in shown and "\x07" not in shown
    assert r"\x1b[2J\x07" in shown


def test_help_of_a_command_stops_before_raises(table, capsys) -> None:
    assert main(["fail", "--help"], table) == 0
    shown = capsys.readouterr().out
    assert "More words." in shown and "Everything" not in shown


def test_a_missing_argument_names_it(table, capsys) -> None:
    assert main(["fail"], table) == 2
    assert "KIND" in capsys.readouterr().err.upper()


@pytest.mark.parametrize("error", SUBCLASSES, ids=lambda error: error.__name__)
def test_every_error_class_keeps_its_own_code(error, capsys) -> None:
    assert failure.tell(error("what", why="why", hint="hint"), True) == error.exit_code
    assert json.loads(capsys.readouterr().out)["error"] == error.__name__


def test_no_two_error_classes_share_a_code() -> None:
    codes = [error.exit_code for error in SUBCLASSES] + [failure.USAGE_CODE, 0]
    assert len(set(codes)) == len(codes)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a POSIX pipe")
def test_a_reader_that_leaves_is_not_an_error_message() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        run = [sys.executable, "-m", "tilth", "devices", "--json"]
        done = subprocess.run(run, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(write)
    assert done.returncode == failure.PIPE_CODE
    assert done.stderr == ""


def test_letters_that_a_pipe_cannot_carry_do_not_crash() -> None:
    done = tilth("d\u00e9vices", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert r"d\xe9vices" in done.stderr


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry[0])
def test_the_table_and_the_command_say_the_same(entry: tuple[str, str, str]) -> None:
    name, module, summary = entry
    command = LazyCommand(name, module, summary).load()
    assert command.help.splitlines()[0] == summary
    options = [option for parameter in command.params for option in parameter.opts]
    assert "--json" in options
