"""The process of one model version: it answers workers over a Unix socket, one batch at a time.

What crashes, loops or eats memory in here takes nobody else with it. Ending the process gives all memory back.
"""

import json
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
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
from tilth.serve.arena import mapped
from tilth.serve.failure import DeadlineError
from tilth.serve.frame import HEADER, HELLO, error_facts, pack, unpack
from tilth.serve.loading import Facts, load, load_lanes
from tilth.serve.sentinel import Sentinel
from tilth.serve.together import apart, kind_of, together

_MOST_FRAME_BYTES = 1 << 31
_BUFFER_BYTES = 1 << 20
_LEAST_READ_BYTES = 1 << 16
_SEND_S = 2.0
#: An engine that is quicker loses more by handing answers to the other thread than by writing them.
_QUICK_MS = 2.0


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
        path = Path(order["path"])
        model, facts = load(path, device(), engines, alone=True)
        lanes = load_lanes(path, device(), engines, facts.lanes)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(order["socket"])
            listener.listen(64)
            sentinel = Sentinel(Path(order["sentinel"]))
            _tell(replies, {"ok": facts.as_json()})
            Runner(model, lanes, facts, listener, sentinel, int(order["slot"])).run(commands)
    except TilthError as error:
        _tell(replies, error_facts(error))
    else:
        # What engines hold may take long to unwind and has nobody to go to.
        os._exit(0)


def _tell(replies: TextIO, reply: Mapping[str, object]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


class Runner:
    """Runs calls of one kind together where the certificate says that it pays.

    One thread talks to the workers and others run the model, so that the next call is there when the engine is free.
    With `lanes` a call that is alone has the model for itself, and while others wait each lane takes one.
    """

    def __init__(
        self,
        model: Model,
        lanes: Sequence[Model],
        facts: Facts,
        listener: socket.socket,
        sentinel: Sentinel,
        slot: int,
    ) -> None:
        self._model, self._lanes, self._facts, self._listener = model, lanes, facts, listener
        self._sentinel, self._slot = sentinel, slot
        self._waiting: deque[Call] = deque()
        self._came = threading.Condition()
        self._ended = self._crowded = False
        #: Threads that have calls, those of lanes among them, and when what they run began.
        self._busy = self._abreast = 0
        self._began: list[int] = []
        self._answers: deque[tuple[Peer, list[bytes]]] = deque()
        self._answered = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._peers: dict[int, Peer] = {}
        self._poll = select.poll()

    def run(self, commands: TextIO) -> None:
        """Answer until `commands` closes."""
        threading.Thread(target=self._talk, args=(commands.fileno(),), daemon=True).start()
        for lane in self._lanes:
            threading.Thread(target=self._run, args=(lane,), kwargs={"abreast": True}, daemon=True).start()
        self._run(self._model, abreast=False)

    def _run(self, model: Model, *, abreast: bool) -> None:
        while calls := self._next(abreast):
            self._answer(calls, model)
            with self._came:
                self._busy -= 1
                self._abreast -= abreast
                self._came.notify_all()

    # -- the thread that talks

    def _talk(self, commands: int) -> None:
        try:
            for fd in (commands, self._listener.fileno(), self._answered):
                self._poll.register(fd, select.POLLIN)
            while self._heard(commands):
                pass
        finally:
            with self._came:
                self._ended = True
                self._came.notify_all()

    def _heard(self, commands: int) -> bool:
        """Read and write what there is; return False when there is nothing to live for."""
        for fd, _ in self._poll.poll():
            if fd == commands:
                return False
            if fd == self._answered:
                os.eventfd_read(fd)
                while self._answers:
                    peer, pieces = self._answers.popleft()
                    peer.send(pieces)
            elif fd == self._listener.fileno():
                self._welcome()
            else:
                self._hear(self._peers[fd])
        return True

    def _welcome(self) -> None:
        connection, _ = self._listener.accept()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        # A worker that does not read, a stopped one say, holds up the others no longer than this.
        connection.settimeout(_SEND_S)
        try:
            peer = Peer(connection, _arena(connection))
        except OSError:
            connection.close()
            return
        self._peers[connection.fileno()] = peer
        self._poll.register(connection, select.POLLIN)

    def _hear(self, peer: "Peer") -> None:
        for number, facts, inputs in peer.received():
            count = rows(inputs, self._facts.signature)
            kind = kind_of(inputs, self._facts.signature) if self._facts.batching.on else number
            wait_s = facts.get("left_s")
            until = time.monotonic() + wait_s if isinstance(wait_s, float) else 0.0
            with self._came:
                self._waiting.append(Call(peer, number, inputs, count, kind, until, time.monotonic_ns()))
                self._came.notify_all()
        if peer.closed:
            self._poll.unregister(peer.fd)
            del self._peers[peer.fd]
            peer.close()

    # -- the threads that run the model

    def _may(self, abreast: bool) -> bool:
        """Return whether waiting calls are for a lane, or for the model that takes one call at a time."""
        if not self._waiting or not self._lanes:
            return bool(self._waiting)
        crowd = self._abreast > 0 or (len(self._waiting) > 1 and not self._busy)
        return crowd if abreast else not crowd and not self._busy

    def _next(self, abreast: bool) -> list[Call]:
        """Wait for calls that are for this thread and take those that run together; none when it is over."""
        with self._came:
            while not self._ended and not self._may(abreast):
                self._came.wait()
            if self._ended:
                return []
            self._busy += 1
            self._abreast += abreast
            self._gather()
            return self._taken()

    def _gather(self) -> None:
        """Wait a little for others to join, when the batch before had company and there is room for more."""
        policy = self._facts.batching
        if not policy.on or not self._crowded:
            return
        end = time.monotonic() + policy.wait_s
        while sum(call.rows for call in self._waiting) < policy.most_rows:
            left = end - time.monotonic()
            if left <= 0 or not self._came.wait(left):
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

    def _answer(self, calls: list[Call], model: Model) -> None:
        late = [call for call in calls if call.until and call.until <= time.monotonic()]
        for call in late:
            self._reply(call, pack(call.number, error_facts(_too_late()), {}))
        calls = [call for call in calls if call not in late and not call.peer.closed]
        if not calls:
            return
        began = time.monotonic_ns()
        self._note(began, self._began.append)
        try:
            outputs = model.run(together([call.inputs for call in calls], self._facts.signature))
            parts = apart(outputs, [call.rows for call in calls], self._facts.signature)
        except TilthError as error:
            self._blame(calls, model, error)
            return
        except Exception as error:  # an engine's own, of any class
            failure = UnavailableError("the engine failed", why=f"{type(error).__name__}: {error}"[:600])
            self._blame(calls, model, failure)
            return
        finally:
            self._note(began, self._began.remove)
        took = time.monotonic_ns() - began
        rows = sum(call.rows for call in calls)
        for call, part in zip(calls, parts, strict=True):
            self._send(call, part, {"queue_ns": began - call.came_ns, "compute_ns": took, "batch": rows})
            rows = 0

    def _note(self, began: int, change: Callable[[int], None]) -> None:
        """Tell the supervisor since when the oldest call runs."""
        with self._came:
            change(began)
            if self._began:
                self._sentinel.enter(self._slot, self._began[0])
            else:
                self._sentinel.leave()

    def _send(self, call: Call, outputs: Mapping[str, Value], facts: Mapping[str, object]) -> None:
        try:
            pieces = pack(call.number, facts, outputs)
        except TilthError as error:
            pieces = pack(call.number, error_facts(error), {})
        self._reply(call, pieces)

    def _reply(self, call: Call, pieces: list[bytes]) -> None:
        if self._facts.p50_ms < _QUICK_MS:
            call.peer.send(pieces)
            return
        self._answers.append((call.peer, pieces))
        os.eventfd_write(self._answered, 1)

    def _blame(self, calls: list[Call], model: Model, error: TilthError) -> None:
        """Answer an error; calls that ran together are run one by one, so that only the bad one gets it."""
        if len(calls) > 1:
            for call in calls:
                self._answer([call], model)
            return
        self._reply(calls[0], pack(calls[0].number, error_facts(error), {}))


def _too_late() -> DeadlineError:
    return DeadlineError("the deadline passed before the model's turn", hint="allow more time, or ask for less at once")


def _arena(connection: socket.socket) -> memoryview:
    """Return the memory that a worker puts its large tensors into.

    Raises:
        OSError: it sends none.
    """
    hello, fds, _, _ = socket.recv_fds(connection, len(HELLO), 1)
    if hello != HELLO or len(fds) != 1:
        raise OSError("a worker says something else")
    return mapped(fds[0])


class Peer:
    """A worker's connection: messages out of a stream of bytes, and out of the memory `arena`."""

    def __init__(self, connection: socket.socket, arena: memoryview) -> None:
        self._connection, self._arena = connection, arena
        self.fd = connection.fileno()
        self.closed = False
        self._buffer = bytearray()
        #: Lanes may answer at the same moment.
        self._sending = threading.Lock()

    def received(self) -> list[tuple[int, dict[str, object], dict[str, Value]]]:
        """Read what has come and return the whole messages in it."""
        try:
            data = self._connection.recv(max(_LEAST_READ_BYTES, self._missing()))
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
            start = HEADER.size + meta_size
            facts, inputs = unpack(view[HEADER.size : start], view[start:], self._arena)
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
            with self._sending:
                self._connection.sendall(b"".join(pieces))
        except OSError:
            self.closed = True

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
