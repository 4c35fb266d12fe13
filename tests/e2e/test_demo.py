"""The main job as `make demo` runs it, without the real models, in an empty folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_demo_ends_with_a_bundle_that_repeats_scikit_learn(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "TILTH_MODELS": str(tmp_path / "none"),
        "TILTH_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/demo.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "same digit as scikit-learn on 100.00% of 360" in done.stdout
    assert "chosen: " in done.stdout
    assert (tmp_path / "out/digits.tilth").is_file()
    assert done.stdout.rstrip().endswith("tilth explain out/digits.tilth")
