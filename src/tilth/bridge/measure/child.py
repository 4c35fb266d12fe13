"""The child process that loads one build and does what it is told; it knows one engine and no files but its own.

It reads one JSON object a line from its command pipe and answers one a line on its reply pipe. What an engine prints
goes to the log that is its standard output and error.
"""

import ctypes
import gc
import json
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from tilth.bridge.measure.tether import tie_to_parent
from tilth.bridge.value_file import read_values, write_values
from tilth.core.build import Build
from tilth.core.device import Device
from tilth.core.errors import InvalidError, TilthError, UnavailableError
from tilth.core.record import from_json, to_json
from tilth.ports.arrays import Value
from tilth.ports.engine import Engine, Session

_COLD_CALLS = 3
_MAKE_ROOM = "make room, or set TMPDIR to another disk"


def serve(find_engine: Callable[[str], Engine], commands: TextIO, replies: TextIO) -> None:
    """Answer commands until the pipe closes."""
    tie_to_parent()
    child = _Child(find_engine)
    for line in commands:
        request = json.loads(line)
        try:
            reply = {"ok": getattr(child, "do_" + request.pop("do"))(**request)}
        except TilthError as error:
            reply = {"error": error.as_json()}
        except Exception as error:
            reply = {"error": {"error": type(error).__name__, "what": str(error)[:2000], "why": "", "hint": ""}}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


class _Child:
    def __init__(self, find_engine: Callable[[str], Engine]) -> None:
        self._find_engine = find_engine
        self._session: Session | None = None
        self._more: list[Session] = []
        self._loads: Callable[[], Session] | None = None
        self._bare_bytes = 0
        self._rested = False
        self._inputs: dict[str, dict[str, Value]] = {}

    def do_load(self, model: str, build: dict[str, Any], device: dict[str, Any]) -> dict[str, Any]:
        """Load the build; return how long it took and how much memory came with it."""
        made = from_json(Build, build)
        engine = self._find_engine(made.engine)
        version = engine.version()
        self._bare_bytes = _memory_bytes("VmRSS")
        self._loads = lambda: engine.load(Path(model), made, from_json(Device, device))
        start = time.perf_counter()
        self._session = self._loads()
        load_ms = (time.perf_counter() - start) * 1e3
        return {"load_ms": load_ms, "memory_bytes": self._grown_bytes(), "version": version}

    def do_run(self, inputs: str, outputs: str) -> dict[str, Any]:
        """Run one file of inputs and write the outputs to another."""
        found = self._ready().run(self._read(inputs))
        try:
            write_values(Path(outputs), found)
        except OSError as error:
            # Not the engine's doing, and no reason to refuse it.
            raise UnavailableError("outputs cannot be kept", why=str(error), hint=_MAKE_ROOM) from None
        return {}

    def do_time(self, inputs: str, seconds: float, most: int) -> dict[str, Any]:
        """Call the build for about `seconds`, at most `most` times; return each call's time in nanoseconds.

        A tenth of the time goes first into calls that are not counted, at least one: after another process had the
        cores, caches are cold and threads asleep. After a rest at least three: pages of activations come anew, and
        an engine may need a call or two to settle on how much it takes.
        """
        session, values = self._ready(), self._read(inputs)
        taken: list[int] = []
        clock = time.perf_counter_ns
        gc.disable()
        end = clock() + int(seconds * 1e8)
        for _ in range(_COLD_CALLS if self._rested else 1):
            session.run(values)
        self._rested = False
        while clock() < end:
            session.run(values)
        end = clock() + int(seconds * 1e9)
        while len(taken) < most:
            start = clock()
            session.run(values)
            stop = clock()
            taken.append(stop - start)
            if stop > end:
                break
        gc.enable()
        return {"ns": taken}

    def do_widen(self, count: int) -> dict[str, Any]:
        """Load the build so often that there are `count` sessions, for `do_abreast`."""
        self._ready()
        while self._loads is not None and len(self._more) + 1 < count:
            self._more.append(self._loads())
        return {}

    def do_abreast(self, inputs: str, seconds: float) -> dict[str, Any]:
        """Call all sessions side by side for about `seconds`; return each call's time, and how many a second.

        Each has a thread of its own and one call that is not counted.
        """
        sessions, values = [self._ready(), *self._more], self._read(inputs)
        together = threading.Barrier(len(sessions))
        taken: list[list[int]] = [[] for _ in sessions]
        failures: list[Exception] = []

        def calls(number: int) -> None:
            run, own, clock = sessions[number].run, taken[number], time.perf_counter_ns
            try:
                run(values)
                together.wait()
                end = clock() + int(seconds * 1e9)
                while not own or clock() < end:
                    start = clock()
                    run(values)
                    own.append(clock() - start)
            except Exception as error:
                failures.append(error)
                together.abort()

        gc.disable()
        threads = [threading.Thread(target=calls, args=(number,)) for number in range(len(sessions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gc.enable()
        if failures:
            raise failures[0]
        # By lane: they do not end at the same moment.
        return {"ns": sum(taken, []), "calls_per_s": sum(len(own) * 1e9 / sum(own) for own in taken)}

    def do_rest(self, inputs: str) -> dict[str, Any]:
        """Give back memory that only calls need."""
        self._ready().rest(self._read(inputs))
        self._rested = True
        gc.collect()
        # glibc keeps freed pages for the next allocation; other C libraries have no such call.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        return {}

    def do_placement(self) -> Any:
        """Return where the engine says that nodes run."""
        return to_json(self._ready().placement())

    def do_memory(self) -> dict[str, int]:
        """Return the high-water mark of this process, and how much it grew since before the model, in bytes."""
        return {"peak_bytes": _memory_bytes("VmHWM"), "grown_bytes": self._grown_bytes()}

    def _grown_bytes(self) -> int:
        return max(0, _memory_bytes("VmRSS") - self._bare_bytes)

    def _ready(self) -> Session:
        if self._session is None:
            raise InvalidError("no build is loaded in this process")
        return self._session

    def _read(self, path: str) -> dict[str, Value]:
        if path not in self._inputs:
            self._inputs = {path: read_values(Path(path))}
        return self._inputs[path]


def _memory_bytes(field: str) -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next((line for line in status.splitlines() if line.startswith(field + ":")), f"{field}: 0 kB")
    return int(line.split()[1]) * 1024
