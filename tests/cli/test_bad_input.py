"""Bad input: a clear error that says what to do, an exit code that is documented, and nothing half-written."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto
from onnx import helper as h

from tilth.cli.main import main

F = TensorProto.FLOAT
#: Not a promise of speed, only of an end: the goal of 2 s is measured, not tested.
HANG_S = 10.0


def tensor(name: str, shape: Any = ("batch", 2), dtype: int = F) -> Any:
    return h.make_tensor_value_info(name, dtype, shape)


def model(*nodes: Any, weights: Any = (), inputs: Any = None, outputs: Any = None, **more: Any) -> ModelProto:
    nodes = nodes or (h.make_node("Add", ["x", "x"], ["y"]),)
    graph = h.make_graph(list(nodes), "g", inputs or [tensor("x")], outputs or [tensor("y")], list(weights))
    return h.make_model(graph, **{"opset_imports": [h.make_opsetid("", 17)], "ir_version": 9, **more})


def weight(dims: list[int], data: bytes = b"", **external: Any) -> TensorProto:
    made = TensorProto(name="w", data_type=F, dims=dims)
    if external:
        made.data_location = TensorProto.EXTERNAL
        for key, value in external.items():
            made.external_data.add(key=key, value=str(value))
    else:
        made.raw_data = data
    return made


def added(made: TensorProto) -> ModelProto:
    return model(h.make_node("Add", ["x", "w"], ["y"]), weights=[made])


def field(number: int, data: bytes) -> bytes:
    size, encoded = len(data), b""
    while True:
        size, low = size >> 7, size & 127
        encoded += bytes([low | (128 if size else 0)])
        if not size:
            return bytes([number << 3 | 2]) + encoded + data


def a_million_nodes() -> bytes:
    nodes = field(1, field(1, b"x") + field(2, b"y") + field(4, b"Neg")) * 10**6
    return b"\x08\x09" + field(7, nodes + field(2, b"g")) + field(8, b"\x10\x11")


def nested(depth: int) -> bytes:
    graph = field(2, b"g")
    for _ in range(depth):
        branch = field(1, b"then_branch") + field(6, graph) + b"\xa0\x01\x05"
        graph = field(1, field(4, b"If") + field(5, branch)) + field(2, b"g")
    return b"\x08\x09" + field(7, graph) + field(8, b"\x10\x11")


def truncated(folder: Path) -> Any:
    return added(weight([1024], bytes(4096))).SerializeToString()[:-2000]


def by_link(folder: Path, make: Callable[[Path, Path], None]) -> Any:
    secret = folder / "secret"
    secret.write_bytes(bytes(8192))
    make(secret, folder / "model" / "w.bin")
    return added(weight([2048], location="w.bin"))


def outside(folder: Path) -> Any:
    (folder / "secret").write_bytes(bytes(8192))
    return added(weight([2048], location="../secret"))


def short(folder: Path) -> Any:
    (folder / "model" / "w.bin").write_bytes(bytes(100))
    return added(weight([2048], location="w.bin"))


#: What the file holds, the exit code, and a word that names the cause.
FILES: dict[str, tuple[Callable[[Path], Any], int, str]] = {
    "truncated": (truncated, 3, "truncated|not an ONNX|cut|parse|bytes"),
    "empty": (lambda _: b"", 3, "empty|not an ONNX|no graph|no "),
    "text": (lambda _: b"hello, world\n" * 100, 3, "ONNX"),
    "a pickle": (lambda _: b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix", 3, "ONNX"),
    "a zip": (lambda _: b"PK\x03\x04" + bytes(100), 3, "ONNX"),
    "external data by ..": (outside, 5, r"\.\."),
    "external data by symlink": (lambda f: by_link(f, lambda a, b: b.symlink_to(a)), 5, "link"),
    "external data by hard link": (lambda f: by_link(f, lambda a, b: b.hardlink_to(a)), 5, "link"),
    "external data by device": (lambda _: added(weight([2048], location="/dev/zero")), 5, "dev|absolute|outside"),
    "external data that is missing": (lambda _: added(weight([2048], location="w.bin")), 7, r"w\.bin"),
    "external data of 2**63 bytes": (lambda _: added(weight([2], location="w.bin", length=2**63)), 3, str(2**63)),
    "external data beyond its file": (short, 3, "bytes"),
    "a shape that contradicts its bytes": (lambda _: added(weight([3], bytes(8))), 3, "bytes"),
    "a shape of 2**62 floats": (lambda _: added(weight([2**62], bytes(8))), 3, str(2**62)),
    "a negative size": (lambda _: added(weight([-1], bytes(4))), 3, "-1|negative"),
    "a million nodes": (lambda _: a_million_nodes(), 4, "nodes"),
    "subgraphs without end": (lambda _: nested(1500), 3, "deep|nest|ONNX|parse"),
    "an unknown opset": (lambda _: model(opset_imports=[h.make_opsetid("", 999)]), 4, "999|opset"),
    "an unknown domain": (
        lambda _: model(
            h.make_node("Dance", ["x"], ["y"], domain="com.acme"),
            opset_imports=[h.make_opsetid("", 17), h.make_opsetid("com.acme", 1)],
        ),
        4,
        r"com\.acme|Dance",
    ),
    "an unknown operator": (lambda _: model(h.make_node("Dance", ["x"], ["y"])), 4, "Dance"),
    "a duplicate name": (
        lambda _: model(h.make_node("Neg", ["x"], ["y"]), h.make_node("Abs", ["x"], ["y"])),
        3,
        "`y`|twice|duplicate",
    ),
    "an input from nowhere": (lambda _: model(h.make_node("Add", ["x", "z"], ["y"])), 3, "`z`"),
    "an output that is a map": (
        lambda _: model(
            outputs=[
                h.make_value_info("y", h.make_map_type_proto(TensorProto.INT64, h.make_tensor_type_proto(F, None)))
            ]
        ),
        4,
        "map",
    ),
    "NaN for its own sample": (lambda _: model(h.make_node("Log", ["x"], ["y"])), 3, "NaN|infinity"),
    "a graph that never runs": (
        lambda _: model(h.make_node("Reshape", ["x", "w"], ["y"]), weights=[h.make_tensor("w", 7, [2], [7, 13])]),
        3,
        "sample|run",
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, with scratch files elsewhere."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "work" / "model").mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setenv("TILTH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def contents(folder: Path) -> list[Path]:
    # Python keeps compiled code beside a module that it imports, unless it is told not to.
    return sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)


def refused(folder: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, str]]:
    """Run a command that must fail; return its exit code and error, after checking that it left nothing."""
    before = contents(folder)
    began = time.monotonic()
    code = main([*arguments, "--json"])
    assert time.monotonic() - began < HANG_S
    said = capsys.readouterr()
    error = json.loads(said.out)
    assert set(error) == {"error", "what", "why", "hint"} and said.err == "", said
    assert contents(folder) == before, "something was left behind"
    # onnxruntime leaves a file `.ses` of its own in the temporary folder.
    assert [path.name for path in (folder.parent / "scratch").iterdir() if path.name != ".ses"] == []
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    return code, error


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_bad_is_refused_with_its_cause(
    folder: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, wanted, cause = FILES[kind]
    made = make(folder)
    data = made.SerializeToString() if isinstance(made, ModelProto) else made
    (folder / "model" / "bad.onnx").write_bytes(data)
    code, error = refused(folder, "import", "model/bad.onnx", "-o", "m.tilth", capsys=capsys)
    assert code == wanted, error
    assert error["what"] and error["why"] and error["hint"], error
    assert re.search(cause, error["what"] + " " + error["why"]), error


def sample(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "s.npz", **arrays)
    return "s.npz"


SAMPLES: dict[str, tuple[Callable[[Path], str], int, str]] = {
    "wrong shape": (lambda f: sample(f, x=np.ones((3, 5), np.float32)), 3, r"\[3, 5\]"),
    "wrong rank": (lambda f: sample(f, x=np.ones(2, np.float32)), 3, r"\[2\]"),
    "wrong dtype": (lambda f: sample(f, x=np.array([["a", "b"]])), 3, "x"),
    "wrong name": (lambda f: sample(f, z=np.ones((3, 2), np.float32)), 3, "z"),
    "no rows": (lambda f: sample(f, x=np.ones((0, 2), np.float32)), 3, "rows"),
    "objects": (lambda f: sample(f, x=np.array([{"a": 1}], dtype=object)), 3, "[Oo]bject|pickle"),
    "NaN inside": (lambda f: sample(f, x=np.full((2, 2), np.nan, np.float32)), 3, "NaN"),
    "no archive": (lambda f: str(made(f, "s.npz")), 3, "npz"),
    "missing": (lambda f: "nowhere.npz", 7, "nowhere"),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_sample_that_does_not_fit_is_refused(folder: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, wanted, cause = SAMPLES[kind]
    (folder / "good.onnx").write_bytes(model().SerializeToString())
    given = make(folder)
    code, error = refused(folder, "import", "good.onnx", "--sample", given, "-o", "m.tilth", capsys=capsys)
    assert code == wanted and error["hint"], error
    assert re.search(cause, error["what"] + error["why"]), error


def factory(folder: Path, body: str) -> str:
    (folder / "made.py").write_text(f"def model():\n    {body}\n", encoding="utf-8")
    return "made:model"


COMMANDS: dict[str, tuple[Callable[[Path], list[str]], int, str]] = {
    "a file that is not there": (lambda f: ["import", "nothing.onnx"], 7, "nothing.onnx"),
    "a folder without a model": (lambda f: ["import", "model"], 4, "model"),
    "weights without a graph": (lambda f: ["import", str(made(f, "net.pth"))], 3, "weights or code"),
    "code that nobody trusts": (lambda f: ["import", str(made(f, "m.joblib"))], 5, "runs whatever code"),
    "a pickle of nothing": (lambda f: ["import", str(made(f, "m.joblib")), "--trust"], 3, "failed"),
    "a module that is not there": (lambda f: ["import", "no.such:thing"], 7, "no"),
    "a factory that raises": (lambda f: ["import", factory(f, "raise ValueError('bad weights')")], 3, "bad weights"),
    "a factory that gives nothing": (lambda f: ["import", factory(f, "return None")], 4, "NoneType"),
    "a factory that ends the process": (lambda f: ["import", factory(f, "import os; os._exit(9)")], 3, "exit code 9"),
    "a factory that crashes": (lambda f: ["import", factory(f, "import os; os.abort()")], 3, "SIGABRT"),
    "a factory that hangs": (
        lambda f: ["import", factory(f, "import time; time.sleep(60)"), "--timeout", "1s"],
        3,
        "longer than 1 s",
    ),
    "a factory that eats memory": (
        lambda f: [
            "import",
            factory(f, "x = []\n    while 1: x.append(bytearray(b'x' * 2**22))"),
            "--memory",
            "400MiB",
        ],
        3,
        "over its limit of 400 MiB",
    ),
    "a bundle that is none": (lambda f: ["show", str(made(f, "m.tilth"))], 3, "not a bundle|no bundle|bundle"),
    "a bundle that is not there": (lambda f: ["build", "nothing.tilth"], 7, "nothing"),
    "a duration without meaning": (lambda f: ["build", "x.tilth", "--budget", "soon"], 3, "soon"),
    "a drop without data": (lambda f: ["build", "x.tilth", "--max-drop", "1%"], 3, "labelled data"),
    "a place that is not there": (lambda f: ["import", good(f), "-o", "no/where/m.tilth"], 7, "no/where"),
    "a place that is a file": (lambda f: ["import", good(f), "-o", "good.onnx/m.tilth"], 8, "cannot be written"),
    "a place that nobody may write": (lambda f: ["import", good(f), "-o", "/proc/m.tilth"], 7, "cannot be written"),
    "a place that holds something else": (lambda f: ["import", good(f), "-o", good(f)], 6, "not replaced"),
    "a folder that holds something else": (lambda f: ["import", good(f), "-o", "."], 6, "not replaced"),
}


def made(folder: Path, name: str) -> Path:
    (folder / name).write_bytes(b"something")
    return Path(name)


def good(folder: Path) -> str:
    (folder / "good.onnx").write_bytes(model().SerializeToString())
    return "good.onnx"


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_that_cannot_be_done_says_so(folder: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, wanted, cause = COMMANDS[kind]
    arguments = make(folder)
    code, error = refused(folder, *arguments, capsys=capsys)
    assert code == wanted, error
    assert error["hint"] and re.search(cause, error["what"] + " " + error["why"]), error


def test_a_full_disk_is_told_and_keeps_the_old_bundle(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = folder.parent / "small"
    small.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    try:
        values = np.random.default_rng(1).standard_normal((2, 50_000)).astype(np.float32)
        large = model(
            h.make_node("MatMul", ["x", "w"], ["y"]),
            weights=[h.make_tensor("w", F, values.shape, values.tobytes(), raw=True)],
            outputs=[tensor("y", ("batch", 50_000))],
        )
        (folder / "large.onnx").write_bytes(large.SerializeToString())
        assert main(["import", good(folder), "-o", str(small / "m.tilth")]) == 0
        capsys.readouterr()
        before = (small / "m.tilth").read_bytes()
        code, error = refused(folder, "import", "large.onnx", "-o", str(small / "m.tilth"), capsys=capsys)
        assert code == 8 and "No space left" in error["why"] and "make room" in error["hint"]
        assert [path.name for path in small.iterdir()] == ["m.tilth"] and (small / "m.tilth").read_bytes() == before
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize(("missing", "extra"), [("openvino", "openvino"), ("sklearn", "sklearn")])
def test_what_is_not_installed_is_named_with_the_command_that_installs_it(
    folder: Path, missing: str, extra: str
) -> None:
    shadow = folder.parent / "shadow" / missing
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text(f"raise ModuleNotFoundError('No module named `{missing}`')", encoding="utf-8")
    tilth = [sys.executable, "-m", "tilth"]
    environment = {**os.environ, "PYTHONPATH": str(shadow.parent)}

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*tilth, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    if missing == "openvino":
        assert run("import", good(folder), "-o", "m.tilth").returncode == 0
        done = run("build", "m.tilth", "--engine", "openvino", "--budget", "1s", "--json")
        assert done.returncode == 6
    else:
        (folder / "made.py").write_text(
            "class Pipeline:\n    __module__ = 'sklearn.pipeline'\n    def predict(self, x): return x\n"
            "def model(): return Pipeline()\n",
            encoding="utf-8",
        )
        done = run("import", "made:model", "--sample", sample(folder, x=np.ones((2, 2), np.float32)), "--json")
        assert done.returncode in (4, 7)
    error = json.loads(done.stdout)
    assert missing in str(error) and ("pip install" in str(error) or "No module named" in str(error)), error
    assert not (folder / "model.tilth").exists()
