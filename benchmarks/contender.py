"""One contender in a process of its own: loads a model, then times calls when told to.

`python benchmarks/contender.py KIND MODEL FEEDS.npz` with KIND `onnxruntime`, `openvino` (their defaults, called as
their documentation shows), `openvino-f32` (its default but for the precision, which it lowers to bf16 where the chip
can) or `tilth` (a bundle, through the public API). Reads one JSON object a line, `{"seconds": s}`, and answers the
calls' nanoseconds.
"""

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def loaded(kind: str, model: str, feeds: dict[str, np.ndarray]) -> Callable[[], object]:
    """Return a call without arguments that runs the model once."""
    if kind == "onnxruntime":
        import onnxruntime

        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, feeds)
    if kind.startswith("openvino"):
        import openvino

        config = {"INFERENCE_PRECISION_HINT": "f32"} if kind == "openvino-f32" else {}
        compiled = openvino.Core().compile_model(model, "CPU", config)
        return lambda: compiled(feeds)
    import tilth

    run = tilth.load(model).run
    return lambda: run(feeds)


def main() -> None:
    """Answer until standard input closes."""
    kind, model, path = sys.argv[1:4]
    with np.load(Path(path), allow_pickle=False) as archive:
        feeds = {name: archive[name] for name in archive.files}
    answers = sys.stdout
    sys.stdout = sys.stderr
    try:
        call = loaded(kind, model, feeds)
        call()
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:300]}), file=answers, flush=True)
        return
    print(json.dumps({"ready": True}), file=answers, flush=True)
    clock = time.perf_counter_ns
    for line in sys.stdin:
        seconds = json.loads(line)["seconds"]
        gc.disable()
        end = clock() + int(seconds * 1e8)
        call()
        while clock() < end:
            call()
        taken = []
        end = clock() + int(seconds * 1e9)
        while not taken or clock() < end:
            start = clock()
            call()
            taken.append(clock() - start)
        gc.enable()
        print(json.dumps({"ns": taken}), file=answers, flush=True)


if __name__ == "__main__":
    main()
