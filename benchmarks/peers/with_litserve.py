"""LitServe with onnxruntime in a LitAPI, as its documentation writes one; JSON over REST.

Started with PEER_MODEL (an ONNX file), PEER_PORT and PEER_WORKERS.
"""

import os

import litserve
import numpy as np
import onnxruntime


class OnnxApi(litserve.LitAPI):
    """The API; every worker makes its own session."""

    def setup(self, device: str) -> None:
        """Make the session."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"]
        )
        self._names = [output.name for output in self._session.get_outputs()]

    def decode_request(self, request: dict) -> dict[str, np.ndarray]:
        """Turn the JSON of a request into arrays."""
        return {
            tensor["name"]: np.array(tensor["data"], np.float32).reshape(tensor["shape"])
            for tensor in request["inputs"]
        }

    def predict(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Run one request."""
        return self._session.run(None, feeds)

    def encode_response(self, arrays: list[np.ndarray]) -> dict:
        """Turn arrays into the JSON of an answer."""
        outputs = [
            {"name": name, "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}
            for name, array in zip(self._names, arrays, strict=True)
        ]
        return {"outputs": outputs}


if __name__ == "__main__":
    workers = int(os.environ["PEER_WORKERS"])
    server = litserve.LitServer(OnnxApi(), accelerator="cpu", workers_per_device=workers)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        num_api_servers=workers,
        log_level="warning",
        generate_client_file=False,
    )
