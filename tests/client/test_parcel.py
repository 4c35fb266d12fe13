"""Small blobs in one body: what goes in comes out, and nothing else is taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.client.parcel import MOST_BLOBS, MOST_BYTES, packed, unpacked
from tilth.client.upload import TINY_BYTES, parcelled
from tilth.core.digest import digest
from tilth.core.errors import InvalidError, UntrustedError

NAME = digest(b"abc")


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6))
def test_what_goes_in_comes_out(blobs: list[bytes]) -> None:
    told = {digest(one): one for one in blobs}
    assert unpacked(packed(told)) == told


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n",
        f"{NAME} 4\nabc".encode(),
        f"{NAME} 99999999\nabc".encode(),
        f"{NAME} 999999999999999999\nabc".encode(),
        f"{NAME} -1\nabc".encode(),
        f"{NAME} 03\nabc".encode(),
        f"{NAME}  3\nabc".encode(),
        f"{NAME} 3\r\nabc".encode(),
        f"{NAME.upper()} 3\nabc".encode(),
        f"{NAME[:-1]} 3\nabc".encode(),
        f"{NAME}0 3\nabc".encode(),
        f"../{NAME[3:]} 3\nabc".encode(),
        f"{NAME} 3\nabc{NAME} 3\nabc".encode(),
        f"{NAME} 3\nabc{NAME}".encode(),
        f"{NAME} 3\nabcx".encode(),
    ],
)
def test_a_body_that_is_built_otherwise_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidError):
        unpacked(body)


def test_other_bytes_than_the_digest_says_are_refused() -> None:
    with pytest.raises(UntrustedError):
        unpacked(f"{NAME} 3\nabd".encode())


def test_more_blobs_than_allowed_are_refused() -> None:
    told = {digest(str(number).encode()): str(number).encode() for number in range(MOST_BLOBS + 1)}
    with pytest.raises(InvalidError):
        unpacked(packed(told))


@given(st.binary(max_size=200))
def test_no_bytes_break_it(body: bytes) -> None:
    try:
        found = unpacked(body)
    except (InvalidError, UntrustedError):
        return
    assert packed(found) == body


def test_every_tiny_blob_is_in_one_parcel_and_no_parcel_is_too_large() -> None:
    sizes = {digest(str(number).encode()): (number * 37) % (2 * TINY_BYTES) for number in range(3000)}
    made = parcelled(sizes)
    names = [name for parcel in made.values() for name in parcel]
    assert sorted(names) == sorted(name for name, size in sizes.items() if size <= TINY_BYTES)
    for parcel in made.values():
        assert len(parcel) <= MOST_BLOBS
        assert sum(sizes[name] + len(f"{name} {sizes[name]}\n") for name in parcel) <= MOST_BYTES
