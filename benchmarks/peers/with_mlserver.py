"""MLServer with onnxruntime behind a custom runtime, as its documentation writes one; REST and gRPC.

Started with PEER_MODEL (an ONNX file), PEER_PORT, PEER_GRPC_PORT, PEER_WORKERS (its `parallel_workers`) and the model
repository as the working folder.
"""

import json
import os
import sys
from pathlib import Path

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    """The runtime: decodes with MLServer's own codec, runs, encodes."""

    async def load(self) -> bool:
        """Make the session."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        self._names = [output.name for output in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run one request."""
        feeds = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        arrays = self._session.run(None, feeds)
        outputs = [NumpyCodec.encode_output(name, array) for name, array in zip(self._names, arrays, strict=True)]
        return InferenceResponse(model_name=self.name, outputs=outputs)


def main() -> None:
    """Write the settings and become `mlserver start`."""
    settings = {
        "host": "127.0.0.1",
        "http_port": int(os.environ["PEER_PORT"]),
        "grpc_port": int(os.environ["PEER_GRPC_PORT"]),
        "metrics_endpoint": None,
        "parallel_workers": int(os.environ["PEER_WORKERS"]),
        "debug": False,
    }
    model = {
        "name": "mlp",
        "implementation": "with_mlserver.OnnxModel",
        "parameters": {"uri": os.environ["PEER_MODEL"]},
    }
    Path("settings.json").write_text(json.dumps(settings), encoding="utf-8")
    Path("model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)
    program = str(Path(sys.executable).with_name("mlserver"))
    os.execv(program, [program, "start", "."])  # noqa: S606


if __name__ == "__main__":
    main()
