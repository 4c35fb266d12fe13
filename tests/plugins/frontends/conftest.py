from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from tilth.bridge.agreement import compare
from tilth.bridge.model_checks import check_model
from tilth.ports.arrays import Values
from tilth.ports.frontend import Capture

Disagreement = Callable[..., float]


def _take(values: Values, rows: int) -> dict[str, Any]:
    return {name: np.concatenate([value] * 2)[:rows] for name, value in values.items()}


def _session(capture: Capture, folder: Path) -> onnxruntime.InferenceSession:
    check_model(capture.model, capture.weights_dir)
    onnx.checker.check_model(capture.model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    path = folder / "model.onnx"
    onnx.save_model(capture.model, path)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.fixture
def disagreement(tmp_path: Path) -> Disagreement:
    """The largest relative error between the graph in onnxruntime and the source, at the given batch sizes."""

    def measure(capture: Capture, sample: Values | None = None, batches: tuple[int, ...] = (1, 37)) -> float:
        session = _session(capture, tmp_path)
        given = capture.sample if sample is None else sample
        assert given is not None
        feeds = [_take(given, rows) for rows in batches] if batches else [dict(given)]
        pairs = []
        for feed in feeds:
            names = [item.name for item in session.get_outputs()]
            found = dict(zip(names, session.run(None, feed), strict=True))
            wanted = capture.run(feed)
            assert list(wanted) == names
            for name in names:
                assert np.shape(found[name]) == np.shape(wanted[name]), name
            pairs.append((found, wanted))
        result = compare(pairs)
        assert result.exact == 1.0 or result.max_rel > 0.1, "labels differ"
        return float(result.max_rel)

    return measure
