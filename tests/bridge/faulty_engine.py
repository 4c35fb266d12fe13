"""An engine that answers 2 * x, and does whatever its build's settings say instead; run as a measuring child.

Settings: `delay_us` is how long a call takes, `error` is added to the outputs, and 9 to those of `error_from` rows or
more, `fault` names something to do at `when` (`load`, `placement`, or the number of a call), `elsewhere` places a node
on another unit, `lie` answers a placement that is none, `mib` is memory to hold, `row_mib` what each row of a call
takes, `scratch_mib` what a call leaves allocated until the session rests. A setting that begins with `lane_` stands
for the one without in builds that have the setting `threads`.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tilth.bridge.measure.child import serve
from tilth.core.build import Build, Precision, Refusal
from tilth.core.certificate import Placement
from tilth.core.device import Device
from tilth.core.errors import InvalidError, MissingError
from tilth.core.graph import Graph
from tilth.ports.arrays import Values
from tilth.ports.engine import Option

COMMAND = (sys.executable, __file__)
DEVICE = Device("cpu:0", "cpu-x86_64", "a chip", cores=2, memory_bytes=8 << 30)


def _hang() -> None:
    time.sleep(60)


def _segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _abort() -> None:
    print("terminate called after throwing an instance of `std::bad_day`", flush=True)
    os.abort()


def _leak() -> None:
    held = []
    while True:
        held.append(np.ones(4 << 20, np.uint8))


def _refuse() -> None:
    raise InvalidError("the engine refuses", why="it is Tuesday")


def _raise() -> None:
    raise ZeroDivisionError("by zero")


FAULTS: dict[str, Callable[[], Any]] = {
    "hang": _hang,
    "segfault": _segfault,
    "abort": _abort,
    "exit": lambda: sys.exit(3),
    "leak": _leak,
    "refuse": _refuse,
    "raise": _raise,
}


class FaultySession:
    def __init__(self, build: Build) -> None:
        lane = {k.removeprefix("lane_"): v for k, v in build.settings.items() if k.startswith("lane_")}
        self._settings = {**build.settings, **(lane if "threads" in build.settings else {})}
        self._held = np.ones(int(self._settings.get("mib", 0)) << 20, np.uint8)
        self._scratch = np.ones(0, np.uint8)
        self._calls = 0
        self._maybe("load")

    def _maybe(self, moment: str | int) -> None:
        if self._settings.get("when", "load") == moment and "fault" in self._settings:
            FAULTS[str(self._settings["fault"])]()

    def run(self, inputs: Values) -> dict[str, Any]:
        self._calls += 1
        self._maybe(self._calls)
        delay_s = float(self._settings.get("delay_us", 0)) / 1e6
        if delay_s:
            time.sleep(delay_s)
        x = np.asarray(inputs["x"])
        np.ones((len(x) * int(self._settings.get("row_mib", 0))) << 20, np.uint8)
        scratch_bytes = int(self._settings.get("scratch_mib", 0)) << 20
        if len(self._scratch) < scratch_bytes:
            self._scratch = np.ones(scratch_bytes, np.uint8)
        wrong = 9.0 if len(x) >= float(self._settings.get("error_from", np.inf)) else self._settings.get("error", 0.0)
        return {"y": x * 2 + np.float32(wrong)}

    def placement(self) -> Any:
        self._maybe("placement")
        if self._settings.get("lie"):
            return {"nodes": "all of them"}
        if self._settings.get("elsewhere"):
            return Placement("cpu", {"cpu": 1, "python": 1}, 0.5, "test")
        return Placement("cpu", {"cpu": 2}, 0.0, "test")

    def rest(self, inputs: Values) -> None:
        self._scratch = np.ones(0, np.uint8)

    def close(self) -> None:
        return


class FaultyEngine:
    """Offers one option per item of `settings`, all in fp32 unless an item says another `precision`."""

    def __init__(
        self, *settings: dict[str, Any], name: str = "faulty", installed: str = "1.0", refused: Sequence[Refusal] = ()
    ) -> None:
        self.name, self._settings, self._installed, self._refused = name, settings, installed, list(refused)

    def version(self) -> str:
        if not self._installed:
            raise MissingError(f"`{self.name}` is not installed", hint=f"run `pip install {self.name}`")
        return self._installed

    def refusals(self, graph: Graph, device: Device) -> list[Refusal]:
        return self._refused

    def options(self, graph: Graph, device: Device, precisions: Sequence[Precision]) -> list[Option]:
        made = []
        for item in self._settings:
            rest = {key: value for key, value in item.items() if key not in ("precision", "recipe", "instead_of")}
            precision, recipe = Precision(item.get("precision", "fp32")), item.get("recipe", "plain")
            made.append(Option(precision, recipe, rest, instead_of=item.get("instead_of", "")))
        return [option for option in made if option.precision in precisions]

    def load(self, model: Path, build: Build, device: Device) -> FaultySession:
        return FaultySession(build)


class ThreadedEngine(FaultyEngine):
    """One that can be told how many threads a call uses, which changes nothing but `lane_` settings."""

    def on_threads(self, build: Build, threads: int) -> Build:
        return replace(build, settings={**build.settings, "threads": threads})


if __name__ == "__main__":
    with (
        os.fdopen(int(sys.argv[1]), encoding="utf-8") as commands,
        os.fdopen(int(sys.argv[2]), "w", encoding="utf-8") as replies,
    ):
        serve(lambda name: FaultyEngine(name=name), commands, replies)
