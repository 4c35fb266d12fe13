"""Every place for blobs that comes with Tilth, through the published suite."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import SkipTest

import pytest
from small_s3 import SECRET, SmallS3, small_s3

from tilth import wiring
from tilth.core.errors import TilthError
from tilth.ports.blob_store import BlobStore
from tilth.testing.blob_suite import BlobSuite

pytestmark = pytest.mark.timeout(180)
#: The file system in memory that Linux has for everybody.
_MEMORY = Path("/dev") / "shm"


class TestFolder(BlobSuite):
    def store(self, folder: Path) -> BlobStore:
        return wiring.blob_store(str(folder / "blobs"))

    def unreachable(self, folder: Path) -> BlobStore:
        made = self.store(folder)
        shutil.rmtree(folder / "blobs")
        (folder / "blobs").write_bytes(b"somebody put a file here")
        return made

    def full(self, folder: Path) -> BlobStore:
        self._small = folder
        command = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tilth-test", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            raise SkipTest("a small disk cannot be mounted here")
        return self.store(folder)

    def teardown_method(self) -> None:
        if small := getattr(self, "_small", None):
            subprocess.run(["umount", "-l", str(small)], capture_output=True)
        super().teardown_method()

    @pytest.mark.parametrize("name", ["z" * 64, "F" * 64, "." + "a" * 63, "lost+found"])
    def test_strangers_in_the_folder_are_no_blobs(self, name: str) -> None:
        digest = self._adopted(b"ours")
        for folder in (Path(self.place.place), Path(self.place.place) / digest[:2]):
            (folder / name).write_bytes(b"somebody else's")
            (folder / ("b" * 64)).mkdir(exist_ok=True)
        assert list(self.place.walk()) == [(digest, 4)]


class TestFolderOnAnotherDisk(TestFolder):
    """Files come from another file system, so that they have to be copied."""

    def incoming(self, folder: Path) -> Path:
        if not _MEMORY.is_dir() or _MEMORY.stat().st_dev == folder.stat().st_dev:
            raise SkipTest("there is no other file system here")
        self._others = [*getattr(self, "_others", []), Path(tempfile.mkdtemp(prefix="tilth-", dir=_MEMORY))]
        return self._others[-1]

    def teardown_method(self) -> None:
        for one in getattr(self, "_others", []):
            shutil.rmtree(one)
        super().teardown_method()


@pytest.fixture(scope="class")
def s3() -> Iterator[SmallS3]:
    """An S3, and the variables that lead there."""
    with small_s3() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


class TestS3(BlobSuite):
    server: SmallS3

    @pytest.fixture(autouse=True, scope="class")
    @staticmethod
    def _reached(request: pytest.FixtureRequest, s3: SmallS3) -> None:
        request.cls.server = s3

    def setup_method(self) -> None:
        self.server.is_full = False
        super().setup_method()

    def store(self, folder: Path) -> BlobStore:
        return wiring.blob_store(f"s3://bucket/{folder.name}")

    def full(self, folder: Path) -> BlobStore:
        made = self.store(folder)
        self.server.is_full = True
        return made

    def unreachable(self, folder: Path) -> BlobStore:
        with pytest.MonkeyPatch.context() as patch:
            # A port of the reserved range, where nobody answers.
            patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
            return self.store(folder)

    def test_strangers_in_the_bucket_are_no_blobs(self) -> None:
        digest = self._adopted(b"ours")
        start = self.place.place.removeprefix("s3://")
        for name in (f"blobs/{'z' * 64}", f"blobs/ab/{'F' * 64}", f"blobs/{'b' * 64}", "else", f"blobs/cd/{'a' * 64}"):
            self.server.objects[f"{start}/{name}"] = b"somebody else's"
        assert list(self.place.walk()) == [(digest, 4)]

    def test_a_wrong_key_says_so_and_not_what_it_is(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", "another")
            place = wiring.blob_store("s3://bucket/else")
        with pytest.raises(TilthError) as told:
            place.size("0" * 64)
        assert SECRET not in str(told.value)

    def test_credentials_in_an_address_are_refused_and_never_shown(self) -> None:
        with pytest.raises(TilthError) as told:
            wiring.blob_store("s3://somebody:hunter2@bucket/else")
        assert "hunter2" not in str(told.value)


class TestMemory(BlobSuite):
    def store(self, folder: Path) -> BlobStore:
        return wiring.blob_store("memory:///")
