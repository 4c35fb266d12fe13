"""The conformance suite for places of blobs: subclass it, say how a place is made, and run pytest.

```python
class TestAcme(BlobSuite):
    def store(self, folder: Path) -> BlobStore:
        return AcmeStore(f"acme://bucket/{folder.name}")
```

`unreachable` and `full` say how to make a place that fails; where a subclass does not, those checks are skipped.
"""

import hashlib
import itertools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import SkipTest

from tilth.core.errors import MissingError, UnavailableError
from tilth.ports.blob_store import BlobStore

#: How long a place that does not answer may keep whoever asks it.
BOUND_S = 45.0
_MOST_BLOCK_BYTES = 4 << 20
_LARGE_BYTES = (9 << 20) + 17
_AT_ONCE = 8
_NOWHERE = "0" * 64


class BlobSuite:
    """What every place of blobs promises."""

    def store(self, folder: Path) -> BlobStore:
        """Return an empty place; `folder` is empty, its name is used once, and it goes after the check."""
        raise NotImplementedError

    def incoming(self, folder: Path) -> Path:
        """Return the folder of files that the place is to take over; one on another disk is a check of its own."""
        return folder

    def unreachable(self, folder: Path) -> BlobStore:
        """Return a place that cannot be reached."""
        raise SkipTest("the subclass has no place that cannot be reached")

    def full(self, folder: Path) -> BlobStore:
        """Return a place that has no room for 16 MiB."""
        raise SkipTest("the subclass has no place without room")

    def setup_method(self) -> None:
        """Make a place."""
        self._scratch = TemporaryDirectory(prefix="tilth-blobs-")
        self._folder = Path(self._scratch.name)
        self._made = 0
        self.place = self.store(self._empty())

    def teardown_method(self) -> None:
        """Remove what was made."""
        self._scratch.cleanup()

    def _empty(self) -> Path:
        self._made += 1
        folder = self._folder / f"{self._folder.name}-{self._made}"
        folder.mkdir()
        return folder

    def _file(self, data: bytes) -> Path:
        path = self.incoming(self._empty()) / f"{self._folder.name}-{self._made}"
        path.write_bytes(data)
        return path

    def _adopted(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.place.adopt(self._file(data), digest)
        return digest

    def _read(self, digest: str, start: int = 0, end: int | None = None) -> bytes:
        return b"".join(self.place.read(digest, start, end))

    # -- there whole or not at all

    def test_what_is_adopted_is_there_and_its_file_is_gone(self) -> None:
        """A blob is there with its size, and what was handed over is the place's."""
        data = os.urandom(1000)
        path, digest = self._file(data), hashlib.sha256(data).hexdigest()
        assert self.place.size(digest) is None
        self.place.adopt(path, digest)
        assert self.place.size(digest) == 1000
        assert self._read(digest) == data
        assert not path.exists(), "the file is still there"

    def test_a_blob_without_bytes_is_a_blob(self) -> None:
        """Nothing is something: it has a size, and is read."""
        digest = self._adopted(b"")
        assert self.place.size(digest) == 0
        assert self._read(digest) == b""
        assert list(self.place.walk()) == [(digest, 0)]

    def test_a_half_written_blob_is_never_seen(self) -> None:
        """Whoever looks while a blob comes sees none of it or all of it."""
        data = os.urandom(_LARGE_BYTES)
        path, digest = self._file(data), hashlib.sha256(data).hexdigest()
        seen: set[int | None] = set()
        done = threading.Event()

        def look() -> None:
            while not done.is_set():
                seen.add(self.place.size(digest))
                seen.update(size for _, size in self.place.walk())

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            self.place.adopt(path, digest)
        finally:
            done.set()
            watcher.join()
        assert seen <= {None, len(data)}, f"sizes {seen} were seen"
        assert self._read(digest) == data

    def test_a_blob_that_is_there_is_adopted_again(self) -> None:
        """The second file is gone like the first, and the blob is what it was."""
        data = b"twice" * 100
        digest, path = self._adopted(data), self._file(data)
        self.place.adopt(path, digest)
        assert not path.exists()
        assert self._read(digest) == data
        assert list(self.place.walk()) == [(digest, len(data))]

    def test_the_same_blob_is_adopted_by_several_at_once(self) -> None:
        """All of them succeed, and one blob is there, whole from the first moment."""
        data = os.urandom(_LARGE_BYTES)
        digest = hashlib.sha256(data).hexdigest()
        paths = [self._file(data) for _ in range(_AT_ONCE)]
        together = threading.Barrier(_AT_ONCE)

        def adopt(path: Path) -> bytes:
            together.wait()
            self.place.adopt(path, digest)
            return self._read(digest)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            assert set(pool.map(adopt, paths)) == {data}
        assert list(self.place.walk()) == [(digest, len(data))]
        assert not any(path.exists() for path in paths)

    # -- reading

    def test_ranges_have_no_byte_too_many_or_too_few(self) -> None:
        """`start` is the first byte and `end` the one behind the last; behind the end is nothing."""
        data = os.urandom(_LARGE_BYTES)
        digest, size = self._adopted(data), _LARGE_BYTES
        edges = [(0, 1), (0, size), (1, size), (size - 1, size), (5, 5), (size, size), (7, 5), (size - 3, size + 9)]
        edges += [(_MOST_BLOCK_BYTES - 1, _MOST_BLOCK_BYTES + 1), (size, size + 1), (size + 5, size + 9)]
        for start, end in edges:
            assert self._read(digest, start, end) == data[start:end], f"from {start} to before {end}"
        for start in (0, 1, size - 1, size, size + 1):
            assert self._read(digest, start) == data[start:], f"from {start}"

    def test_blocks_are_small_enough_to_hold(self) -> None:
        """No block has more than 4 MiB, and none is empty."""
        digest = self._adopted(os.urandom(_LARGE_BYTES))
        sizes = [len(block) for block in self.place.read(digest)]
        assert max(sizes) <= _MOST_BLOCK_BYTES, sizes
        assert min(sizes) > 0, sizes

    def test_what_is_not_there_is_missing(self) -> None:
        """It has no size, and reading any part of it says so."""
        assert self.place.size(_NOWHERE) is None
        for start, end in ((0, None), (0, 1), (5, None), (0, 0)):
            _fails_with(MissingError, lambda start=start, end=end: self._read(_NOWHERE, start, end))  # type: ignore[misc]

    # -- removing and listing

    def test_what_is_dropped_is_gone_and_may_be_dropped_again(self) -> None:
        """Dropping is no error the second time, and the blob can come again."""
        data = b"goes and comes"
        digest = self._adopted(data)
        self.place.drop(digest)
        assert self.place.size(digest) is None
        assert list(self.place.walk()) == []
        self.place.drop(digest)
        assert self._read(self._adopted(data)) == data

    def test_every_blob_is_listed_once_while_others_come_and_go(self) -> None:
        """What stays is listed; what goes meanwhile is no error."""
        made = {self._adopted(data): len(data) for data in _side_by_side(3) + [b"%d" % one for one in range(12)]}
        assert dict(self.place.walk()) == made
        beside = sorted(made)[-3:]
        seen, gone = [], set[str]()
        for digest, _ in self.place.walk():
            seen.append(digest)
            if digest in beside and not gone:
                gone = {*beside} - {digest}
                for one in gone:
                    self.place.drop(one)
        assert len(seen) == len(set(seen))
        assert set(seen) >= made.keys() - gone

    def test_blobs_are_those_of_one_place(self) -> None:
        """Another place of the same kind has none of them."""
        self._adopted(b"here")
        assert list(self.store(self._empty()).walk()) == []

    # -- failing

    def test_a_place_that_cannot_be_reached_says_so_in_time(self) -> None:
        """Every call ends within 45 s with an error that names the place."""
        began = time.monotonic()
        place = self.unreachable(self._empty())
        path, data = self._file(b"stays"), b"stays"
        calls: list[Callable[[], object]] = [
            lambda: place.size(_NOWHERE),
            lambda: list(place.read(_NOWHERE)),
            lambda: list(place.walk()),
            lambda: place.drop(_NOWHERE),
            lambda: place.adopt(path, hashlib.sha256(data).hexdigest()),
        ]
        with ThreadPoolExecutor(len(calls)) as pool:
            told = list(pool.map(lambda call: str(_fails_with(UnavailableError, call)), calls))
        assert all(place.place in one for one in told), told
        assert time.monotonic() - began < BOUND_S
        assert path.read_bytes() == data, "the file was given up, and nobody has it"

    def test_a_place_without_room_says_so_and_shows_nothing(self) -> None:
        """No room is an error, and no part of the blob is seen."""
        began = time.monotonic()
        place, data = self.full(self._empty()), os.urandom(16 << 20)
        digest = hashlib.sha256(data).hexdigest()
        _fails_with(UnavailableError, lambda: place.adopt(self._file(data), digest))
        assert place.size(digest) is None
        assert list(place.walk()) == []
        assert time.monotonic() - began < BOUND_S

    def test_the_place_is_named_for_people(self) -> None:
        """`place` is a text of one line."""
        assert self.place.place
        assert self.place.place.isprintable()


def _side_by_side(count: int) -> list[bytes]:
    """Return blobs whose digests begin with `ff`: neighbours wherever a place keeps them by their first digits."""
    tries = (b"side by side %d" % number for number in itertools.count())
    return list(itertools.islice((one for one in tries if hashlib.sha256(one).digest()[0] == 0xFF), count))


def _fails_with(kind: type[Exception], call: Callable[[], object]) -> Exception:
    """Return the error that a call ends with, which is of a kind."""
    try:
        found = call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}: {found!r}"[:300])
