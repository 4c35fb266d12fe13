"""The commands on a small model, as a person and a script would run them: real processes, real files."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from onnx import helper as h

from tilth.cli.main import main

WEIGHTS = np.random.default_rng(3).standard_normal((8, 3)).astype(np.float32)
X = np.linspace(-1, 1, 40, dtype=np.float32).reshape(5, 8)


@dataclass
class Place:
    """A folder with a model, and a cache of its own."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        return {**os.environ, "TILTH_CACHE": str(self.folder / "cache"), "TMPDIR": str(scratch), "COLUMNS": "200"}

    def start(self, *arguments: str, **more: Any) -> "subprocess.Popen[str]":
        run = [sys.executable, "-m", "tilth", *arguments]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(run, cwd=self.folder, env=self.environment, text=True, **pipes | more)

    def tilth(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def json(self, *arguments: str) -> Any:
        done = self.tilth(*arguments, "--json")
        assert done.returncode == 0, done
        assert done.stderr == ""
        return json.loads(done.stdout)

    def leftovers(self) -> list[str]:
        return [path.name for path in (self.folder / "scratch").iterdir() if path.name != ".ses"]


def place_at(folder: Path) -> Place:
    edges = [
        h.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in (("x", 8), ("scores", 3))
    ]
    graph = h.make_graph(
        [h.make_node("MatMul", ["x", "w"], ["p"]), h.make_node("Softmax", ["p"], ["scores"])],
        "g",
        edges[:1],
        edges[1:],
        [h.make_tensor("w", TensorProto.FLOAT, WEIGHTS.shape, WEIGHTS.tobytes(), raw=True)],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    np.savez(folder / "x.npz", x=X)
    return Place(folder)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place with `m.tilth`, imported with a sample and built with onnxruntime."""
    place = place_at(tmp_path_factory.mktemp("built"))
    place.json("import", "model.onnx", "--sample", "x.npz", "-o", "m.tilth")
    place.json("build", "m.tilth", "--budget", "1s", "--engine", "ort", "--batches", "1,4")
    return place


def answer(x: Any) -> Any:
    scores = np.exp(x.astype(np.float64) @ WEIGHTS.astype(np.float64))
    return scores / scores.sum(axis=1, keepdims=True)


def test_import_says_what_it_made_and_what_comes_next(tmp_path: Path) -> None:
    place = place_at(tmp_path)
    done = place.tilth("import", "model.onnx")
    assert done.returncode == 0 and done.stderr == "", done
    assert "input   x: float32[batch, 8]" in done.stdout and "output  scores: float32[batch, 3]" in done.stdout
    assert "made from the signature" in done.stdout and done.stdout.endswith("next: tilth build model.tilth\n")
    assert place.leftovers() == []
    assert place.json("import", "model.onnx", "-o", "folder/")["manifest"]["name"] == "folder"
    assert (tmp_path / "folder" / "manifest.json").is_file()


def test_every_line_of_evidence_of_a_build_is_in_its_json(built: Place) -> None:
    data = built.json("explain", "m.tilth")
    ids = {build["id"] for build in data["builds"]}
    assert {c["build"] for c in data["certificates"]} == ids and data["choices"][0]["build"] in ids
    assert set(data["choices"][0]["reasons"]) <= ids
    for certificate in data["certificates"]:
        assert set(certificate["agreement"]) == {
            "max_abs",
            "max_rel",
            "rms_rel",
            "cosine",
            "decisions",
            "exact",
            "rows",
        }
        assert certificate["versions"].keys() >= {"ort", "python", "tilth", "driver"}
        assert certificate["placement"]["source"] and certificate["peak_memory_bytes"] > 0
        for timing in certificate["timings"]:
            assert 0 < timing["p50_ms"] <= timing["p95_ms"] <= timing["p99_ms"]


def test_explain_shows_every_candidate_and_the_choice(built: Place) -> None:
    data, done = built.json("explain", "m.tilth"), built.tilth("explain", "m.tilth")
    assert done.returncode == 0
    for build in data["builds"]:
        assert build["label"].split()[0] in done.stdout
    assert "chosen: " in done.stdout and "next: tilth run m.tilth" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 200


def test_show_verifies_every_byte_when_asked(built: Place) -> None:
    shown = built.json("show", "m.tilth", "--verify")
    assert shown["verified"] is True and len(shown["digest"]) == 64
    text = built.tilth("show", "m.tilth", "--graph").stdout
    assert shown["digest"] in text and "1 Softmax" in text and "chosen   ort" in text


def test_run_gives_the_answers_of_the_model(built: Place) -> None:
    data = built.json("run", "m.tilth", "--input", "x.npz", "--output", "y.npz")
    assert data["outputs"][0]["name"] == "scores" and data["outputs"][0]["shape"] == [5, 3]
    with np.load(built.folder / "y.npz") as outputs:
        assert np.allclose(outputs["scores"], answer(X), rtol=1e-4)
    np.savez(built.folder / "one.npz", X[:1])
    done = built.tilth("run", "m.tilth", "-i", "one.npz")
    assert done.returncode == 0 and "scores" in done.stdout and "add --output" in done.stdout


def test_bench_measures_beside_what_the_certificate_was_measured_beside(built: Place) -> None:
    data = built.json("bench", "m.tilth", "--time", "0.2s", "--batches", "2")
    assert [t["batch"] for t in data["timings"]] == [2] and data["timings"][0]["calls"] > 10
    assert data["build"].startswith("ort") and data["beside"].startswith("ort")
    assert built.leftovers() == []


def test_a_second_build_comes_from_the_cache(built: Place) -> None:
    before = (built.folder / "m.tilth").read_bytes()
    again = built.json("build", "m.tilth", "--budget", "1s", "--engine", "ort", "--batches", "1,4")
    assert again["cached"] is True and (built.folder / "m.tilth").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "cause"),
    [
        (("run", "m.tilth", "-i", "wrong_names.npz"), 3, "missing: `x`, unknown: `z`"),
        (("run", "m.tilth", "-i", "wrong_shape.npz"), 3, "has shape [5, 7], not [batch, 8]"),
        (("run", "m.tilth", "-i", "wrong_dtype.npz"), 3, "has dtype `float64`, not `float32`"),
        (("run", "m.tilth", "-i", "nothing.npz"), 7, "there is no file"),
        (("run", "m.tilth", "-i", "model.onnx"), 3, "not a readable `.npz`"),
        (("run", "nothing.tilth", "-i", "x.npz"), 7, "nothing.tilth"),
        (("run", "m.tilth", "-i", "x.npz", "-o", "."), 3, "is a folder"),
        (("run", "m.tilth", "-i", "x.npz", "-o", "no/y.npz"), 8, "cannot be written"),
        (("run", "m.tilth"), 2, "Missing option"),
        (("bench", "m.tilth", "--batches", "0"), 3, "numbers from 1 to 65536"),
        (("build", "m.tilth", "--engine", "tpu"), 7, "there is no engine `tpu`"),
        (("build", "m.tilth", "-o", "no/m.tilth"), 7, "cannot be written"),
        (("build", "m.tilth", "--eval", "x.npz"), 3, "no labels"),
        (("show", "model.onnx"), 3, "model.onnx"),
        (("explain", "."), 3, "."),
    ],
)
def test_what_cannot_be_done_exits_with_its_code_and_writes_nothing(
    built: Place,
    arguments: tuple[str, ...],
    code: int,
    cause: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    np.savez(built.folder / "wrong_names.npz", z=X)
    np.savez(built.folder / "wrong_shape.npz", x=X[:, :7])
    np.savez(built.folder / "wrong_dtype.npz", x=X.astype(np.float64))
    monkeypatch.chdir(built.folder)
    before = sorted(path for path in built.folder.iterdir())
    assert main(list(arguments)) == code
    said = capsys.readouterr()
    assert cause in said.err and "hint:" in said.err and said.out == ""
    assert sorted(path for path in built.folder.iterdir()) == before


def waiting_for(place: Place, process: "subprocess.Popen[str]", count: int) -> None:
    """Wait until a search has kept what it learned of `count` candidates."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        for record in (place.folder / "cache" / "search").glob("search-*.json"):
            if record.read_text(encoding="utf-8").count('"load_ms"') >= count:
                return
        time.sleep(0.02)
    raise AssertionError(f"nothing was kept: {process.poll()}")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


@pytest.mark.parametrize("how", ["ctrl-c", "killed"])
def test_a_build_that_is_stopped_leaves_the_bundle_and_goes_on_where_it_was(tmp_path: Path, how: str) -> None:
    place = place_at(tmp_path)
    place.json("import", "model.onnx", "-o", "m.tilth")
    before = (tmp_path / "m.tilth").read_bytes()
    build = ("build", "m.tilth", "--engine", "ort", "--engine", "reference", "--budget", "3s", "--batches", "1")
    with place.start(*build, start_new_session=True) as process:
        waiting_for(place, process, 1)
        while not (workers := children(process.pid)) and process.poll() is None:
            time.sleep(0.002)  # one has ended and the next is not started
        if how == "ctrl-c":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.kill()
        out, err = process.communicate(timeout=30)
    assert workers
    assert (tmp_path / "m.tilth").read_bytes() == before
    end = time.monotonic() + 10
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers), "a child outlived its parent"
    if how == "ctrl-c":
        assert process.returncode == 130 and out == ""
        assert "the search was interrupted" in err and "run the same command again to go on" in err
        assert place.leftovers() == [] and [p.name for p in tmp_path.glob(".*.tmp")] == []
    record = next((tmp_path / "cache" / "search").glob("search-*.json")).read_text(encoding="utf-8")
    kept = {c["load_ms"] for c in json.loads(record)["state"]["sights"].values()}
    data = place.json(*build)
    assert data["cached"] is False and data["choice"]["build"]
    assert kept <= {c["load_ms"] for c in data["certificates"]}, "what was measured is not measured again"


def test_an_import_that_is_interrupted_writes_nothing(tmp_path: Path) -> None:
    place = place_at(tmp_path)
    (tmp_path / "slow.py").write_text(
        "import time\ndef model():\n    open('started', 'w').close()\n    time.sleep(60)\n", encoding="utf-8"
    )
    with place.start("import", "slow:model", start_new_session=True) as process:
        end = time.monotonic() + 60
        while not (tmp_path / "started").exists() and time.monotonic() < end:
            time.sleep(0.02)
        workers = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "the import was interrupted" in err
    assert not list(tmp_path.glob("*.tilth")) and place.leftovers() == []
    assert workers and not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_two_builds_of_one_bundle_at_a_time_leave_a_whole_bundle(tmp_path: Path) -> None:
    place = place_at(tmp_path)
    place.json("import", "model.onnx", "-o", "m.tilth")
    build = ("build", "m.tilth", "--engine", "ort", "--budget", "1s", "--batches", "1", "--json")
    with place.start(*build) as one, place.start(*build) as other:
        for process in (one, other):
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
            assert json.loads(out)["choice"]["build"]
    shown = place.json("show", "m.tilth", "--verify")
    assert len(shown["manifest"]["choices"]) == 1


def test_names_that_steer_a_terminal_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    place = place_at(tmp_path)
    place.json("import", "model.onnx", "-o", "m.tilth", "--name", "evil\x1b[2J\x07name")
    for command in (("show", "m.tilth"), ("build", "m.tilth", "--engine", "ort", "--budget", "0.2s", "--batches", "1")):
        done = place.tilth(*command)
        assert done.returncode == 0 and "\x1b" not in done.stdout and "\x07" not in done.stdout
        assert "evil\\x1b[2J\\x07name" in done.stdout
