"""Siblings: what a killed writer leaves goes with the next one, and nobody loses what is being written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tilth.bridge.disk import sibling

_KILLED = """
import os, signal, sys
from pathlib import Path
from tilth.bridge.disk import sibling
with sibling(Path(sys.argv[1]), folder=sys.argv[2] == "folder") as made:
    (made / "blob" if made.is_dir() else made).write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def make_old(path: Path) -> None:
    then = time.time() - 3600
    os.utime(path, (then, then))


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "m.tilth"
    ended = subprocess.run([sys.executable, "-c", _KILLED, str(target), kind], check=False)
    assert ended.returncode == -signal.SIGKILL
    [left] = tmp_path.iterdir()
    with sibling(target, folder=False):
        assert left.exists(), "it is new: its maker may just not have locked it yet"
    make_old(left)
    with sibling(tmp_path / "other.tilth", folder=False):
        assert left.exists(), "it belongs to another name"
    with sibling(target, folder=False):
        assert not left.exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", [True, False])
def test_a_slow_writer_keeps_what_it_is_writing(tmp_path: Path, folder: bool) -> None:
    target = tmp_path / "m.tilth"
    with sibling(target, folder=folder) as slow:
        make_old(slow)
        with sibling(target, folder=folder) as other:
            assert slow.exists() and other != slow
        assert slow.exists()


def test_names_that_only_look_alike_stay(tmp_path: Path) -> None:
    keep = [
        tmp_path / name for name in (".m.tilth.tmp", ".m.tilth.0123456789abcdeg.tmp", ".mXtilth.0123456789abcdef.tmp")
    ]
    for path in keep:
        path.write_bytes(b"mine")
        make_old(path)
    with sibling(tmp_path / "m.tilth", folder=False):
        assert all(path.exists() for path in keep)


def test_a_link_that_looks_like_a_leftover_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    victim = tmp_path / "inside" / "victim"
    victim.write_bytes(b"mine")
    link = tmp_path / ".m.tilth.0123456789abcdef.tmp"
    link.symlink_to(victim)
    os.utime(link, (0, 0), follow_symlinks=False)
    with sibling(tmp_path / "m.tilth", folder=False):
        assert victim.read_bytes() == b"mine"
