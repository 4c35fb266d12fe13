"""Memory between a worker and a runner: what fits, what is written over when, and what the reader may do."""

import asyncio
import fcntl
import mmap
import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from tilth.core.signature import Signature, TensorSpec
from tilth.ports.arrays import Array
from tilth.serve.arena import Arena, mapped
from tilth.serve.batching import Batching
from tilth.serve.frame import HEADER, HELLO, pack, unpack
from tilth.serve.loading import Facts
from tilth.serve.unit import Apart

KB64 = 1 << 16


def numbers(count: int = KB64 // 4, start: int = 0) -> Array:
    return np.arange(start, start + count, dtype=np.float32)


def test_what_is_put_is_read_on_the_other_side() -> None:
    arena = Arena(8 * KB64)
    other = mapped(os.dup(arena.fd))
    for array in (numbers(), numbers().reshape(128, 128).T, numbers()[::-1], numbers().astype(">f4")):
        at = arena.put(array)
        assert at is not None and at % 64 == 0
        found = np.frombuffer(other, np.float32, array.size, at).reshape(array.shape)
        assert np.array_equal(found, array)
    arena.close()
    assert other[:1]  # the reader's own, and longer than the writer's


def test_nothing_is_written_over_before_it_is_given_back() -> None:
    arena = Arena(4 * KB64)
    places = [arena.put(numbers(start=index)) for index in range(4)]
    assert sorted(place for place in places if place is not None) == [0, KB64, 2 * KB64, 3 * KB64]
    assert arena.put(numbers()) is None
    arena.give(2 * KB64)
    assert arena.put(numbers(KB64 // 2)) is None  # twice as large as the gap
    assert arena.put(numbers()) == 2 * KB64
    arena.give(0)
    arena.give(KB64)
    assert arena.put(numbers(KB64 // 2)) == 0
    arena.close()


def test_small_ones_and_texts_take_the_socket() -> None:
    arena = Arena(4 * KB64)
    assert arena.put(numbers(16)) is None
    assert arena.put(np.array(["x" * 100] * 5000, object)) is None
    arena.close()


def test_the_reader_can_neither_write_nor_cut_it() -> None:
    arena = Arena(4 * KB64)
    with pytest.raises(OSError, match="not permitted"):
        mmap.mmap(arena.fd, 4 * KB64)
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(arena.fd, 0)
    with pytest.raises(OSError, match="not permitted"):
        os.write(arena.fd, b"x")
    with pytest.raises(OSError, match="not permitted"):
        fcntl.fcntl(arena.fd, fcntl.F_ADD_SEALS, 0)
    assert mapped(os.dup(arena.fd)).readonly
    arena.close()


def test_a_descriptor_that_is_no_arena_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(OSError):
        mapped(os.open(tmp_path / "empty", os.O_RDONLY))


def test_a_message_with_tensors_in_both_places_is_whole_and_the_readers_own() -> None:
    arena = Arena(4 * KB64)
    shared = mapped(os.dup(arena.fd))
    values = {"large": numbers(), "small": numbers(3), "many": [numbers(start=5), numbers(2)]}
    data = memoryview(b"".join(pack(7, {}, values, arena.put)))
    assert len(data) < 2048
    meta, size, _ = HEADER.unpack_from(data)
    _, found = unpack(data[HEADER.size : HEADER.size + meta], data[HEADER.size + meta :][:size], shared)
    arena.give(0)
    arena.put(numbers(start=100))
    assert np.array_equal(np.asarray(found["large"]), numbers())
    assert np.array_equal(np.asarray(found["small"]), numbers(3))
    assert all(np.array_equal(a, b) for a, b in zip(found["many"] or [], values["many"], strict=True))
    arena.close()


def test_a_unit_gives_back_what_was_answered_and_what_was_given_up(tmp_path: Path) -> None:
    """A runner of this test answers late; calls that gave up keep their place until then, and no longer."""
    path = str(tmp_path / "runner")
    release = threading.Event()
    served = threading.Thread(target=runner, args=(path, release), daemon=True)
    listening = threading.Event()
    runner.listening = listening  # type: ignore[attr-defined]
    served.start()
    assert listening.wait(5)
    asyncio.run(ask(path, release))
    served.join(5)


async def ask(path: str, release: threading.Event) -> None:
    signature = Signature((TensorSpec("x", "float32", ("n",)),), (TensorSpec("y", "float32", ("n",)),))
    facts = Facts("m", "", signature, "b", "b", "ort", 1.0, True, Batching(), 60.0, 1 << 40, 0.0)
    unit = await Apart.connected(path, 0, "1", facts, 100)
    calls = [asyncio.create_task(unit.call({"x": numbers(start=index)}, 0.0)) for index in range(10)]
    await asyncio.sleep(0.1)
    arena = unit._arena
    assert arena is not None and len(arena._taken) == 10
    for call in calls[5:]:
        call.cancel()
    await asyncio.sleep(0.05)
    assert len(arena._taken) == 10
    release.set()
    for index, call in enumerate(calls[:5]):
        outputs, *_ = await call
        assert np.array_equal(np.asarray(outputs["y"]), numbers(start=index))
    while arena._taken:
        await asyncio.sleep(0.01)
    unit.close()
    await asyncio.sleep(0.05)
    assert unit._arena is None


def runner(path: str, release: threading.Event) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        runner.listening.set()  # type: ignore[attr-defined]
        connection, _ = listener.accept()
        hello, (fd,), _, _ = socket.recv_fds(connection, len(HELLO), 1)
        assert hello == HELLO
        shared, data, waiting = mapped(fd), bytearray(), 10
        while waiting and (piece := connection.recv(65536)):
            data += piece
            while len(data) >= HEADER.size:
                meta, size, number = HEADER.unpack_from(data)
                whole = memoryview(bytes(data[: HEADER.size + meta + size]))
                if len(data) < len(whole):
                    break
                del data[: len(whole)]
                _, values = unpack(whole[HEADER.size : HEADER.size + meta], whole[HEADER.size + meta :], shared)
                release.wait(5)
                facts = {"queue_ns": 0, "compute_ns": 1, "batch": 1}
                connection.sendall(b"".join(pack(number, facts, {"y": values["x"]})))
                waiting -= 1
        connection.recv(1)
        connection.close()
