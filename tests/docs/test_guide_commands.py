"""Every `tilth` command line in the guides names a command and options that the program has."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tilth.cli.main import group

ROOT = Path(__file__).resolve().parent.parent.parent
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
#: What stands between the commands of a line of shell, and before and behind a file that one writes to.
_BETWEEN = set("|&;()<>")
#: What the command line raises for an argument, or the value of an option, that is missing.
_LEFT_OUT = ("MissingParameter", "BadOptionUsage")


def typed(page: str) -> Iterator[list[str]]:
    """Yield the arguments of every `tilth` command in the shell blocks of a page."""
    for block in re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        script = re.sub(r"<<'?(\w+)'?\n.*?^\1$", "", block.replace("\\\n", " "), flags=re.DOTALL | re.MULTILINE)
        for line in script.splitlines():
            if re.search(r"\btilth\b", line):
                yield from _commands(line)


def told(page: str) -> Iterator[list[str]]:
    """Yield the arguments of every command that stands in a sentence of a page."""
    sentences = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    for span in re.findall(r"`tilth ([^`]+)`", sentences):
        yield shlex.split(span.replace("\n", " "))


def _commands(line: str) -> Iterator[list[str]]:
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    found: list[str] | None = None
    first = True
    for word in (*words, ";"):
        if set(word) <= _BETWEEN:
            if found is not None:
                yield found
            found, first = None, True
        elif found is not None:
            found.append(word)
        elif (first and word == "tilth") or word.endswith("/bin/tilth"):
            found = []
        else:
            # Variables for one command stand before it; behind other words, `tilth` is somebody's user.
            first = first and "=" in word


def objection(arguments: list[str], *, whole: bool = True) -> str:
    """Return what the command line says against arguments, empty for nothing; none of it is run.

    With `whole` false, arguments that are missing are no objection.
    """
    try:
        _parse(group(), arguments, None)
    except typer.Exit:
        return ""  # `--version` and `--help` end here
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        if not whole and type(error).__name__ in _LEFT_OUT:
            return ""
        return f"tilth {' '.join(arguments)}: {error.format_message()}"
    return ""


def _parse(command: Any, arguments: list[str], above: Any) -> None:
    context = command.make_context(command.name, [*arguments], above)
    # A command that stands for one that is loaded when it is used has made way for that.
    found = context.command
    rest = [*context._protected_args, *context.args]
    if hasattr(found, "resolve_command") and rest:
        _, below, rest = found.resolve_command(context, rest)
        _parse(below, rest, context)


def test_names_of_users_and_what_is_fed_to_others_are_no_commands() -> None:
    page = "```sh\nuseradd tilth\npsql <<'SQL'\nCREATE ROLE tilth LOGIN;\nSQL\nX=1 tilth status\n```\n"
    assert [*typed(page)] == [["status"]]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_a_guide_that_names_a_command_or_option_that_is_not_there_is_caught(guide: Path) -> None:
    page = guide.read_text(encoding="utf-8")
    wrong = [objection(one) for one in typed(page)] + [objection(one, whole=False) for one in told(page)]
    assert [one for one in wrong if one] == []


def test_a_variable_that_the_command_line_page_does_not_name_is_caught() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "src" / "tilth").rglob("*.py")]
    known = {name for text in sources for name in re.findall(r"""["'](TILTH_[A-Z_]+)["']""", text)}
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert known == set(re.findall(r"`(TILTH_[A-Z_]+)(?:=1)?`", page.partition("## tilth\n")[0]))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("tilth up --detatch", "--detatch"),
        ("a | /opt/tilth/bin/tilth models shwo digits && b", "shwo"),
        ("X=1 tilth deploy --to line > log", "model"),
        ("tilth rollback line --to first", "first"),
    ],
)
def test_a_misspelt_line_is_found_wherever_it_stands(line: str, says: str) -> None:
    (found,) = typed(f"# Page\n\n```sh\ntrue\n{line}\n```\n")
    assert says in objection(found)


def test_a_misspelt_option_in_a_sentence_is_found_and_what_it_leaves_out_is_not() -> None:
    right, wrong = told("Run `tilth push` and then `tilth deploy --trafic 10%`.\n")
    assert objection(right, whole=False) == "" and "--trafic" in objection(wrong, whole=False)


def test_the_guides_hold_commands_to_check() -> None:
    pages = [one.read_text(encoding="utf-8") for one in GUIDES]
    assert sum(len([*typed(page)]) for page in pages) > 100 and sum(len([*told(page)]) for page in pages) > 40
