"""What onnxruntime alone makes of a node test: the yardstick, without any of Tilth's own code around it."""

import onnxruntime

from tilth.ports.arrays import Value
from tilth.testing.node_tests import NodeCase
from tilth.testing.survey import Kind, Outcome, judged


def in_process(case: NodeCase) -> tuple[Outcome, dict[str, Value]]:
    """Return how `InferenceSession(model).run(None, inputs)` ends, and its outputs by name where there are any."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            case.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's classes share no base
        return Outcome(case.name, Kind.NOT_LOADED, str(error)), {}
    try:
        answers = session.run(None, dict(case.inputs))
    except Exception as error:
        return Outcome(case.name, Kind.NOT_RUN, str(error)), {}
    found = dict(zip([output.name for output in session.get_outputs()], answers, strict=True))
    return judged(case, found), found
