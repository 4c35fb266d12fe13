"""BentoML with onnxruntime in a service, as its documentation writes one; JSON over REST.

Started with PEER_MODEL (an ONNX file), PEER_PORT and PEER_WORKERS.
"""

import os
import sys
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(
    workers=int(os.environ["PEER_WORKERS"]),
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
)
class OnnxModel:
    """The service; every worker makes its own session."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"]
        )

    @bentoml.api
    async def infer(self, rows: np.ndarray) -> np.ndarray:
        """Run one request."""
        return self._session.run(None, {"input": rows.astype(np.float32)})[0]


def main() -> None:
    """Become `bentoml serve`."""
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    program = str(Path(sys.executable).with_name("bentoml"))
    service = ["with_bentoml:OnnxModel", "--working-dir", str(Path(__file__).resolve().parent)]
    address = ["--host", "127.0.0.1", "--port", os.environ["PEER_PORT"]]
    os.execv(program, [program, "serve", *service, *address])  # noqa: S606


if __name__ == "__main__":
    main()
