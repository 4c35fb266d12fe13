"""What the page of the Python API says of the client of a control plane, compared with the client."""

import re
from pathlib import Path

import pytest

from tilth.client import errors
from tilth.client.client import Client
from tilth.client.noun import Noun

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs" / "reference" / "python.md").read_text(encoding="utf-8")


@pytest.fixture
def client() -> Client:
    return Client("http://127.0.0.1:1", "tilth_none")


def test_a_part_or_method_that_the_page_does_not_name_is_caught(client: Client) -> None:
    rows = re.findall(r"^\| `client\.(\w+)` \| (.*) \|$", PAGE, re.MULTILINE)
    documented = {part: set(re.findall(r"`(\w+)`", methods)) for part, methods in rows}
    parts = {name: part for name, part in vars(client).items() if isinstance(part, Noun)}
    assert documented == {name: {one for one in vars(type(part)) if one[0] != "_"} for name, part in parts.items()}


def test_a_method_of_the_client_itself_that_the_page_does_not_name_is_caught() -> None:
    own = {name for name in vars(Client) if not name.startswith("_")} - {"close"}
    assert own == set(re.findall(r"^- `(?:Client|client)\.(\w+)\(", PAGE, re.MULTILINE))


def test_an_error_that_the_page_does_not_name_is_caught() -> None:
    kinds = {
        name: one for name, one in vars(errors).items() if isinstance(one, type) and one.__module__ == errors.__name__
    }
    rows = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", PAGE, re.MULTILINE))
    assert rows == {name: kind.__base__.__name__ for name, kind in kinds.items() if kind.__base__ is not None}
