"""Bundles to push, and what the machine itself does with as many bytes: its disk, and loopback."""

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto
from onnx import helper as h
from onnx import numpy_helper as nh

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


@contextlib.contextmanager
def cached(path: Path) -> Iterator[Path]:
    """Yield a file that has been read once, so that its disk is not what is measured."""
    with path.open("rb") as file:
        while file.read(_BLOCK):
            pass
    yield path
