"""Digests and the JSON that is hashed."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.digest import canonical_json, checked_digest, digest, digest_file
from tilth.core.errors import UntrustedError

GOOD = "0123456789abcdef" * 4
_quick = settings(max_examples=30, deadline=None)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text('aé€😀\n"'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abÄ", max_size=4), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD[:-1],
        GOOD + "0",
        GOOD.upper(),
        "g" + GOOD[1:],
        GOOD + "\n",
        "\n" + GOOD,
        "../" + GOOD[3:],
        "sha256:" + GOOD,
        GOOD[:-1] + "\N{ARABIC-INDIC DIGIT ONE}",
        None,
        int(GOOD, 16),
        GOOD.encode(),
    ],
)
def test_a_name_that_is_not_a_digest_is_untrusted(text: object) -> None:
    with pytest.raises(UntrustedError, match="is not a digest"):
        checked_digest(text)


def test_a_digest_is_returned_as_it_is() -> None:
    assert checked_digest(GOOD) is GOOD


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    path = tmp_path / "file"
    path.write_bytes(data[:size])
    assert digest_file(path) == digest(memoryview(data)[:size]) == hashlib.sha256(data[:size]).hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_a_figure_that_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(value)


def test_the_form_is_pinned_to_the_byte() -> None:
    assert canonical_json({"b": [1, 2.5, None, True], "a": "é\n"}) == '{"a":"é\\n","b":[1,2.5,null,true]}\n'.encode()


@_quick
@given(_json)
def test_equal_values_have_equal_bytes_and_come_back(value: object) -> None:
    data = canonical_json(value)
    assert json.loads(data) == value
    assert canonical_json(json.loads(data)) == data
    assert data.endswith(b"\n") and data.count(b"\n") == 1
