"""Quantities as people type them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.cli.quantity import seconds, share, size_bytes, whole_numbers
from tilth.core.errors import InvalidError

READERS = (seconds, share, size_bytes, whole_numbers)


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (seconds, "60", 60),
        (seconds, "60s", 60),
        (seconds, " 1.5 m ", 90),
        (seconds, "2min", 120),
        (seconds, "250ms", 0.25),
        (seconds, "1h", 3600),
        (seconds, ".5", 0.5),
        (share, "0.5%", 0.005),
        (share, "0.005", 0.005),
        (share, "100%", 1),
        (share, "0", 0),
        (size_bytes, "4GiB", 4 << 30),
        (size_bytes, "4g", 4 << 30),
        (size_bytes, "1.5k", 1536),
        (size_bytes, "10MB", 10**7),
        (size_bytes, "7", 7),
        (whole_numbers, "1, 8,32", (1, 8, 32)),
        (whole_numbers, "65536", (65536,)),
    ],
)
def test_what_people_type_is_understood(read: Any, text: str, value: Any) -> None:
    assert read(text) == (pytest.approx(value) if isinstance(value, float) else value)


@pytest.mark.parametrize(
    ("read", "text"),
    [(read, text) for read in READERS for text in ("", " ", "x", "-1", "1e3", "nan", "inf", "1 2", "1;2", "٣", "1,,2")]
    + [(seconds, text) for text in ("0", "0s", "5%", "5GiB", "1.2.3", "9" * 400, "9" * 5000)]
    + [(share, text) for text in ("1.01", "101%", "5s", "0.5%%", "9" * 400)]
    + [(size_bytes, text) for text in ("0", "5s", "5%", "0.1", "9" * 400, "5 GiBB")]
    + [(whole_numbers, text) for text in ("0", "1,0", "65537", "1.5", "8,", "+1", "²", "9" * 5000, "1_000")],
)
def test_what_means_nothing_is_refused_with_an_example(read: Any, text: str) -> None:
    with pytest.raises(InvalidError, match="is not") as caught:
        read(text)
    assert caught.value.hint.startswith("write ") and len(caught.value.what) < 120


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(READERS), st.text(st.sampled_from("0123456789.,% smhkMGiBe+-"), max_size=12))
def test_no_text_is_worse_than_refused(read: Any, text: str) -> None:
    try:
        found = read(text)
    except InvalidError:
        return
    assert found == 0.0 or min(found if isinstance(found, tuple) else (found,)) > 0
