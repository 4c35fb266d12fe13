"""The process of one model version: it answers workers over a Unix socket, one batch at a time.

What crashes, loops or eats memory in here takes nobody else with it. Ending the process gives all memory back.
"""

import json
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tilth.bridge.batch import rows
from tilth.bridge.measure.tether import tie_to_parent
from tilth.bridge.model import Model
from tilth.core.device import Device
from tilth.core.errors import TilthError, UnavailableError
from tilth.ports.arrays import Value, Values
from tilth.ports.engine import Engine
from tilth.serve.failure import DeadlineError
from tilth.serve.frame import HEADER, error_facts, pack, unpack
from tilth.serve.loading import Facts, load
from tilth.serve.sentinel import Sentinel
from tilth.serve.together import apart, kind_of, together

_MOST_FRAME_BYTES = 1 << 31
_READ_BYTES = 1 << 20
_SEND_S = 2.0


@dataclass
class Call:
    """A request that waits for its turn. `until` is of `time.monotonic`, 0 for none."""

    peer: "Peer"
    number: int
    inputs: Values
    rows: int
    kind: object
    until: float
    came_ns: int


def serve(engines: Mapping[str, Engine], device: Callable[[], Device], commands: TextIO, replies: TextIO) -> None:
    """Load what the first line of `commands` says, answer with its facts, and run calls until the pipe closes."""
    tie_to_parent()
    order = json.loads(commands.readline())
    try:
        model, facts = load(Path(order["path"]), device(), engines, alone=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(order["socket"])
            listener.listen(64)
            sentinel = Sentinel(Path(order["sentinel"]))
            _tell(replies, {"ok": facts.as_json()})
            Runner(model, facts, listener, sentinel, int(order["slot"])).run(commands)
    except TilthError as error:
        _tell(replies, error_facts(error))


def _tell(replies: TextIO, reply: Mapping[str, object]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


class Runner:
    """Reads calls from all workers, and runs those of one kind together where the certificate says that it pays."""

    def __init__(self, model: Model, facts: Facts, listener: socket.socket, sentinel: Sentinel, slot: int) -> None:
        self._model, self._facts, self._listener = model, facts, listener
        self._sentinel, self._slot = sentinel, slot
        self._waiting: deque[Call] = deque()
        self._peers: dict[int, Peer] = {}
        self._poll = select.poll()
        self._crowded = False

    def run(self, commands: TextIO) -> None:
        """Answer until `commands` closes."""
        self._poll.register(self._listener, select.POLLIN)
        self._poll.register(commands, select.POLLIN)
        while True:
            if not self._read(commands.fileno(), None if not self._waiting else 0.0):
                return
            if self._waiting:
                self._gather(commands.fileno())
                self._answer(self._taken())

    def _read(self, commands: int, timeout_s: float | None) -> bool:
        """Read what has come, waiting at most so long; return False when there is nothing to live for."""
        for fd, _ in self._poll.poll(None if timeout_s is None else timeout_s * 1e3):
            if fd == commands:
                return False
            if fd == self._listener.fileno():
                self._welcome()
            else:
                self._hear(self._peers[fd])
        return True

    def _welcome(self) -> None:
        connection, _ = self._listener.accept()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _READ_BYTES)
        # A worker that does not read, a stopped one say, holds up the others no longer than this.
        connection.settimeout(_SEND_S)
        peer = Peer(connection)
        self._peers[connection.fileno()] = peer
        self._poll.register(connection, select.POLLIN)

    def _hear(self, peer: "Peer") -> None:
        for number, facts, inputs in peer.received():
            count = rows(inputs, self._facts.signature)
            kind = kind_of(inputs, self._facts.signature) if self._facts.batching.on else number
            wait_s = facts.get("left_s")
            until = time.monotonic() + wait_s if isinstance(wait_s, float) else 0.0
            self._waiting.append(Call(peer, number, inputs, count, kind, until, time.monotonic_ns()))
        if peer.closed:
            self._poll.unregister(peer.fd)
            del self._peers[peer.fd]
            peer.close()

    def _gather(self, commands: int) -> None:
        """Wait a little for others to join, when the batch before had company and there is room for more."""
        policy = self._facts.batching
        if not policy.on or not self._crowded or sum(call.rows for call in self._waiting) >= policy.most_rows:
            return
        end = time.monotonic() + policy.wait_s
        while sum(call.rows for call in self._waiting) < policy.most_rows:
            left = end - time.monotonic()
            if left <= 0 or not self._read(commands, left):
                return

    def _taken(self) -> list[Call]:
        """Take the first call and those behind it that may run with it, up to the certified batch."""
        first = self._waiting.popleft()
        batch, rows = [first], first.rows
        while self._waiting and self._waiting[0].kind == first.kind:
            if rows + self._waiting[0].rows > self._facts.batching.most_rows:
                break
            rows += self._waiting[0].rows
            batch.append(self._waiting.popleft())
        self._crowded = len(batch) > 1 or bool(self._waiting)
        return batch

    def _answer(self, calls: list[Call]) -> None:
        late = [call for call in calls if call.until and call.until <= time.monotonic()]
        for call in late:
            call.peer.send(pack(call.number, error_facts(_too_late()), {}))
        calls = [call for call in calls if call not in late and not call.peer.closed]
        if not calls:
            return
        began = time.monotonic_ns()
        self._sentinel.enter(self._slot)
        try:
            outputs = self._model.run(together([call.inputs for call in calls], self._facts.signature))
            parts = apart(outputs, [call.rows for call in calls], self._facts.signature)
        except TilthError as error:
            self._blame(calls, error)
            return
        except Exception as error:  # an engine's own, of any class
            self._blame(calls, UnavailableError("the engine failed", why=f"{type(error).__name__}: {error}"[:600]))
            return
        finally:
            self._sentinel.leave()
        took = time.monotonic_ns() - began
        rows = sum(call.rows for call in calls)
        for call, part in zip(calls, parts, strict=True):
            self._send(call, part, {"queue_ns": began - call.came_ns, "compute_ns": took, "batch": rows})
            rows = 0

    def _send(self, call: Call, outputs: Mapping[str, Value], facts: Mapping[str, object]) -> None:
        try:
            pieces = pack(call.number, facts, outputs)
        except TilthError as error:
            pieces = pack(call.number, error_facts(error), {})
        call.peer.send(pieces)

    def _blame(self, calls: list[Call], error: TilthError) -> None:
        """Answer an error; calls that ran together are run one by one, so that only the bad one gets it."""
        if len(calls) > 1:
            for call in calls:
                self._answer([call])
            return
        calls[0].peer.send(pack(calls[0].number, error_facts(error), {}))


def _too_late() -> DeadlineError:
    return DeadlineError("the deadline passed before the model's turn", hint="allow more time, or ask for less at once")


class Peer:
    """A worker's connection: messages out of a stream of bytes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.fd = connection.fileno()
        self.closed = False
        self._buffer = bytearray()

    def received(self) -> list[tuple[int, dict[str, object], dict[str, Value]]]:
        """Read what has come and return the whole messages in it."""
        try:
            data = self._connection.recv(max(_READ_BYTES, self._missing()))
        except (ConnectionError, InterruptedError):
            data = b""
        if not data:
            self.closed = True
            return []
        self._buffer += data
        found = []
        while self._missing() == 0:
            meta_size, body_size, number = HEADER.unpack_from(self._buffer)
            end = HEADER.size + meta_size + body_size
            whole, self._buffer = self._buffer[:end], self._buffer[end:]
            view = memoryview(whole)
            facts, inputs = unpack(view[HEADER.size : HEADER.size + meta_size], view[HEADER.size + meta_size :])
            found.append((number, facts, inputs))
        return found

    def _missing(self) -> int:
        """Return how many bytes the next message still lacks, at least 1 where that is not known."""
        if len(self._buffer) < HEADER.size:
            return HEADER.size - len(self._buffer)
        meta_size, body_size, _ = HEADER.unpack_from(self._buffer)
        if meta_size + body_size > _MOST_FRAME_BYTES:
            self.closed = True
            return 1
        return max(0, HEADER.size + int(meta_size) + int(body_size) - len(self._buffer))

    def send(self, pieces: list[bytes]) -> None:
        """Write a message; a worker that is gone is noted and misses nothing."""
        try:
            self._connection.sendall(b"".join(pieces))
        except OSError:
            self.closed = True

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
