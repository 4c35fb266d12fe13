"""One served version in a worker: on the event loop, or in a process of its own."""

import asyncio
import socket
import time
from collections.abc import Iterable
from typing import Any, Protocol

from tilth.bridge.check_values import checked
from tilth.bridge.model import Model
from tilth.core.errors import UnavailableError
from tilth.core.signature import Signature
from tilth.ports.arrays import Array, Value, Values
from tilth.serve.arena import Arena
from tilth.serve.failure import DeadlineError, OverloadedError
from tilth.serve.frame import HEADER, HELLO, pack, raised, unpack
from tilth.serve.loading import Facts

#: What came back and what it took: outputs, nanoseconds in the queue, nanoseconds of computing, and the rows that ran
#: together, told to one request of those that did and 0 to the others.
Result = tuple[dict[str, Value], int, int, int]


class Unit(Protocol):
    """A version that answers."""

    slot: int
    version: str
    facts: Facts
    #: Whether inputs and outputs are tensors alone, no sequences and nothing that may be absent.
    plain: bool
    #: A loaded build, when it runs on the event loop; None when it is asked with `call`.
    model: Model | None

    async def call(self, inputs: Values, until: float) -> Result:
        """Return the outputs for checked inputs.

        Raises:
            OverloadedError: too many calls wait already.
            DeadlineError: `until`, of `time.monotonic`, passed; 0 is never.
            UnavailableError: the process of the model ended.
            InvalidError: the engine refuses the inputs.
        """
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class Inline:
    """A small build on the event loop."""

    def __init__(self, slot: int, version: str, facts: Facts, model: Model) -> None:
        self.slot, self.version, self.facts = slot, version, facts
        self.plain = is_plain(facts.signature)
        self.model: Model | None = model

    async def call(self, inputs: Values, until: float) -> Result:
        """Run at once; there is no queue."""
        if self.model is None:
            raise UnavailableError("the model was unloaded", hint="ask for another version")
        began = time.perf_counter_ns()
        outputs = self.model.run(inputs)
        return outputs, 0, time.perf_counter_ns() - began, 1

    def close(self) -> None:
        """Drop the model."""
        if self.model is not None:
            self.model.close()
        self.model = None


class Apart(asyncio.Protocol):
    """A build in a runner's process, reached over a Unix socket."""

    model: Model | None = None

    def __init__(self, slot: int, version: str, facts: Facts, queue: int) -> None:
        self.slot, self.version, self.facts, self._queue = slot, version, facts, queue
        self.plain = is_plain(facts.signature)
        self._transport: Any = None
        #: Calls without an answer, and where their tensors lie in the arena.
        self._waiting: dict[int, tuple[asyncio.Future[tuple[Any, Any]], list[int]]] = {}
        self._arena: Arena | None = None
        self._buffer = bytearray()
        self._number = 0

    @classmethod
    async def connected(cls, path: str, slot: int, version: str, facts: Facts, queue: int) -> "Apart":
        """Return a unit whose runner listens at `path`.

        Raises:
            OSError: nobody listens there, or there is no memory for it.
        """
        unit = cls(slot, version, facts, queue)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(path)
            unit._arena = Arena()
            socket.send_fds(connection, [HELLO], [unit._arena.fd])
            connection.setblocking(False)
            await asyncio.get_running_loop().create_unix_connection(lambda: unit, sock=connection)
        except BaseException:
            connection.close()
            unit._let_go()
            raise
        return unit

    @property
    def waiting(self) -> int:
        """How many calls of this worker wait for their answer."""
        return len(self._waiting)

    async def call(self, inputs: Values, until: float) -> Result:
        """Send the inputs and wait for the answer, at most `until`."""
        given = checked(inputs, self.facts.signature)
        if len(self._waiting) >= self._queue:
            raise OverloadedError(
                "too many requests wait for this model",
                why=f"{self._queue} in one worker",
                hint="ask again later, or serve it on more machines",
                retry_after_s=max(1, round(self._queue * self.facts.p50_ms / 1e3)),
            )
        if self._transport is None:
            raise _ended()
        left_s = until - time.monotonic() if until else 0.0
        self._number += 1
        number = self._number
        future: asyncio.Future[tuple[Any, Any]] = asyncio.get_running_loop().create_future()
        taken: list[int] = []
        pieces = pack(number, {"left_s": left_s} if until else {}, given, lambda array: self._put(array, taken))
        # Until its answer comes, also when nobody waits for that any more: what is sent takes the runner's memory.
        self._waiting[number] = future, taken
        self._transport.writelines(pieces)
        facts, outputs = await _in_time(future, left_s, until)
        if "error" in facts:
            raise raised(facts)
        return outputs, facts["queue_ns"], facts["compute_ns"], facts["batch"]

    def close(self) -> None:
        """Close the connection; the runner itself is the supervisor's."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: Any) -> None:
        """Keep the transport; a slow runner must not block the loop, and the queue's length bounds what waits."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Give answers to those who wait."""
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            meta_size, body_size, number = HEADER.unpack_from(self._buffer)
            end = HEADER.size + meta_size + body_size
            if len(self._buffer) < end:
                return
            whole, self._buffer = self._buffer[:end], self._buffer[end:]
            future, taken = self._waiting.pop(number, (None, ()))
            self._give(taken)
            if future is not None and not future.done():
                view = memoryview(whole)
                future.set_result(unpack(view[HEADER.size : HEADER.size + meta_size], view[HEADER.size + meta_size :]))

    def connection_lost(self, error: Exception | None) -> None:
        """Tell everyone who waits that the runner ended."""
        self._transport = None
        self._let_go()
        for future, _ in self._waiting.values():
            if not future.done():
                future.set_exception(_ended())
        self._waiting.clear()

    def _put(self, array: Array, taken: list[int]) -> int | None:
        at = self._arena.put(array) if self._arena is not None else None
        if at is not None:
            taken.append(at)
        return at

    def _give(self, taken: Iterable[int]) -> None:
        for at in taken:
            if self._arena is not None:
                self._arena.give(at)

    def _let_go(self) -> None:
        if self._arena is not None:
            self._arena.close()
            self._arena = None


def is_plain(signature: Signature) -> bool:
    """Return whether everything that goes in and comes out is a tensor."""
    return all(spec.container == "tensor" for spec in (*signature.inputs, *signature.outputs))


async def _in_time(future: "asyncio.Future[tuple[Any, Any]]", left_s: float, until: float) -> tuple[Any, Any]:
    if not until:
        return await future
    try:
        async with asyncio.timeout(max(0.0, left_s)):
            return await future
    except TimeoutError:
        raise late() from None


def late() -> DeadlineError:
    """Return the error of a deadline that passed."""
    return DeadlineError("the deadline passed before the answer was there", hint="allow more time, or send fewer rows")


def _ended() -> UnavailableError:
    return UnavailableError(
        "the model's process ended", why="it crashed or was ended for taking too long or too much", hint="ask again"
    )
