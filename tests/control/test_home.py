"""The folder of a control plane: one process at a time, and nobody else's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tilth.control.home import Home
from tilth.core.errors import RefusedError, UnavailableError


def test_a_second_process_is_refused_and_told_which_one_has_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tilth.control.home import Home\n"
        "with Home(Path(sys.argv[1])).held(): print('held')"
    )
    with Home(tmp_path / "h").held():
        second = subprocess.run([sys.executable, "-c", code, tmp_path / "h"], capture_output=True, text=True)
        assert "held" not in second.stdout and f"process {os.getpid()} has it" in second.stderr
    third = subprocess.run([sys.executable, "-c", code, tmp_path / "h"], capture_output=True, text=True)
    assert third.stdout == "held\n"


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "h").mkdir()
    (tmp_path / "h").chmod(0o777)
    with pytest.raises(RefusedError, match="owner alone"), Home(tmp_path / "h").held():
        pass


def test_what_it_makes_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Home(tmp_path / "a" / "h").held():
            for path in (tmp_path / "a" / "h", tmp_path / "a" / "h" / "blobs", tmp_path / "a" / "h" / "uploads"):
                assert path.stat().st_mode & 0o777 == 0o700
            assert (tmp_path / "a" / "h" / "lock").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_a_lock_that_points_elsewhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "h").mkdir(mode=0o700)
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "h" / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(UnavailableError), Home(tmp_path / "h").held():
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_home_where_no_folder_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match="cannot be used"), Home(tmp_path / "file" / "h").held():
        pass
