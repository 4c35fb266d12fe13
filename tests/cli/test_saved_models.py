"""Files in a framework's own form: data is read without trust, and what is code is not."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tilth.core.errors import MissingError, UntrustedError

X = np.random.default_rng(0).normal(size=(80, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


def imported(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tilth", "import", *words],
        cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_trees_that_were_saved_as_data_need_no_trust(tmp_path: Path) -> None:
    lightgbm, xgboost = pytest.importorskip("lightgbm"), pytest.importorskip("xgboost")
    lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(X, Y), 3).save_model(tmp_path / "a.lgb")
    xgboost.XGBClassifier(n_estimators=3).fit(X, Y).save_model(tmp_path / "b.ubj")
    for name in ("a.lgb", "b.ubj"):
        done = imported(tmp_path, name)
        assert done.returncode == 0, done.stderr
    assert {one.name for one in tmp_path.glob("*.tilth")} == {"a.tilth", "b.tilth"}


def test_a_damaged_file_of_trees_is_an_error_and_no_crash_of_ours(tmp_path: Path) -> None:
    for name in ("a.lgb", "b.ubj"):
        (tmp_path / name).write_bytes(b"tree\nversion=v4\n" + bytes(range(256)) * 4)
        done = imported(tmp_path, name)
        assert done.returncode == 3 and "Traceback" not in done.stderr, done.stderr
    assert not list(tmp_path.glob("*.tilth"))


def test_skops_is_opened_when_it_is_trusted_and_skops_is_there(tmp_path: Path) -> None:
    (tmp_path / "m.skops").write_bytes(b"x")
    assert imported(tmp_path, "m.skops").returncode == UntrustedError.exit_code
    done = imported(tmp_path, "m.skops", "--trust")
    assert done.returncode in (MissingError.exit_code, 3) and "Traceback" not in done.stderr


def test_a_file_whose_name_begins_like_a_run_is_no_run(tmp_path: Path) -> None:
    done = imported(tmp_path, "runs/none.onnx")
    assert done.returncode == MissingError.exit_code and "there is no file" in done.stderr


def test_a_run_without_a_server_to_ask_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = imported(tmp_path, f"mlflow:{'a' * 32}/m")
    assert done.returncode == MissingError.exit_code and "MLFLOW_TRACKING_URI" in done.stderr
