"""Bundles to push, and what the machine itself does with as many bytes: its disk, and loopback."""

import json
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import onnx
from onnx import TensorProto
from onnx import helper as h
from onnx import numpy_helper as nh
from serve_peers import Peer, free_ports

import tilth

_BLOCK = 1 << 20
_LAYERS, _WIDTH = 8, 4000


def large(folder: Path) -> Path:
    """Write a bundle with 512 MB of weights, which are others every time, and return its path."""
    return _chain(folder, [(_WIDTH, _WIDTH)] * _LAYERS)


def small(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a small network with new weights as an ONNX file and as a bundle, and return both paths."""
    bundle = _chain(folder, [(16, 64), (64, 64), (64, 3)], name)
    return folder / f"{name}.onnx", bundle


def disk_s(folder: Path, size_bytes: int) -> float:
    """Return how long the disk takes to write and keep as many bytes, one file after the other by one program."""
    path, block = folder / "probe", secrets.token_bytes(_BLOCK)
    start = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(size_bytes // _BLOCK):
            file.write(block)
        os.fsync(file.fileno())
    taken = time.perf_counter() - start
    path.unlink()
    return taken


def loopback_s(size_bytes: int) -> float:
    """Return how long as many bytes take from one thread to another over a TCP connection of this machine."""
    block = secrets.token_bytes(_BLOCK)

    def send(listener: socket.socket) -> None:
        other, _ = listener.accept()
        with other:
            for _ in range(size_bytes // _BLOCK):
                other.sendall(block)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=send, args=(listener,))
        thread.start()
        start = time.perf_counter()
        with socket.create_connection(listener.getsockname()) as own:
            room, left = memoryview(bytearray(_BLOCK)), True
            while left:
                left = bool(own.recv_into(room))
        taken = time.perf_counter() - start
        thread.join()
    return taken


def _chain(folder: Path, shapes: list[tuple[int, int]], name: str = "large") -> Path:
    source = np.random.default_rng(secrets.randbits(64))
    weights = [
        nh.from_array(source.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[0])), f"w{number}")
        for number, shape in enumerate(shapes)
    ]
    edges = ["x", *(f"e{number}" for number in range(1, len(shapes))), "y"]
    nodes = [h.make_node("MatMul", [a, w.name], [b]) for (a, b), w in zip(pairwise(edges), weights, strict=True)]
    ends = [h.make_tensor_value_info(one, TensorProto.FLOAT, ["batch", size])
            for one, size in (("x", shapes[0][0]), ("y", shapes[-1][1]))]  # fmt: skip
    graph = h.make_graph(nodes, name, ends[:1], ends[1:], weights)
    path = folder / f"{name}.onnx"
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8), path)
    tilth.import_model(path, out=path.with_suffix(".tilth"), name=name)
    return path.with_suffix(".tilth")


class Mlflow:
    """MLflow's server and client in an environment of their own, on this machine; a context manager."""

    def __init__(self, folder: Path) -> None:
        peer = Peer("MLflow", "with_mlflow.py", (("mlflow>=3.17,<4", "graphene>=3"),), "mlflow")
        given = os.environ.get("TILTH_TRACKING_PYTHON")
        self._python = Path(given) if given else peer.installed()
        self._folder = folder
        code = "import importlib.metadata as m; print(m.version('mlflow'))"
        found = subprocess.run([self._python, "-c", code], capture_output=True, text=True, check=True)
        self.version = found.stdout.strip()

    def __enter__(self) -> "Mlflow":
        (port,) = free_ports(1)
        address = f"http://127.0.0.1:{port}"
        server = [self._python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        server += ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        server += ["--artifacts-destination", str(self._folder / "artifacts")]
        with (self._folder / "mlflow.log").open("ab") as log:
            self._server = subprocess.Popen(server, stdout=log, stderr=log, start_new_session=True)
            _until_answers(f"{address}/health")
            client = [self._python, str(Path(__file__).with_name("peers") / "with_mlflow.py")]
            environment = {**os.environ, "MLFLOW_TRACKING_URI": address}
            self._client = subprocess.Popen(
                client, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._client.stdin, self._client.stdout):
            if pipe is not None:
                pipe.close()
        self._client.wait()
        os.killpg(self._server.pid, signal.SIGTERM)
        self._server.wait()

    def registered(self, path: Path) -> tuple[float, float]:
        """Log a file and register it, and return how long each took, in seconds."""
        if self._client.stdin is None or self._client.stdout is None:
            raise SystemExit("MLflow's client has no pipes")
        self._client.stdin.write(f"{path}\n")
        self._client.stdin.flush()
        logged_s, registered_s = json.loads(self._client.stdout.readline())
        return logged_s, registered_s


def _until_answers(url: str) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            if httpx.get(url, timeout=5, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"{url} does not answer")
