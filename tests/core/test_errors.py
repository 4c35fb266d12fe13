"""Errors: what callers and scripts rely on."""

import pytest

from tilth.core import errors
from tilth.core.errors import TilthError

KINDS = TilthError.__subclasses__()


def test_no_two_kinds_share_an_exit_code_or_take_one_of_the_shell() -> None:
    codes = [kind.exit_code for kind in (TilthError, *KINDS)]
    assert len(set(codes)) == len(codes)
    assert not {0, 2, 126, 127} & set(codes)


def test_the_exit_codes_that_scripts_rely_on_stay() -> None:
    assert {kind.__name__: kind.exit_code for kind in KINDS} == {
        "InvalidError": 3,
        "UnsupportedError": 4,
        "UntrustedError": 5,
        "RefusedError": 6,
        "MissingError": 7,
        "UnavailableError": 8,
        "CancelledError": 130,
    }


def test_the_tree_at_the_top_of_the_file_is_the_tree() -> None:
    assert errors.__doc__ is not None
    assert [line.split()[1] for line in errors.__doc__.splitlines() if line[:1] in "├└" and line] == [
        kind.__name__ for kind in KINDS
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_says_what_why_and_next(kind: type[TilthError]) -> None:
    error = kind("`x` is bad", why="it is", hint="try `y`")
    assert str(error) == "`x` is bad\n  why:  it is\n  hint: try `y`"
    assert error.as_json() == {"error": kind.__name__, "what": "`x` is bad", "why": "it is", "hint": "try `y`"}


def test_what_is_not_known_is_not_printed() -> None:
    assert str(TilthError("`x` is bad")) == "`x` is bad"
