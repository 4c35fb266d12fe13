"""Ray Serve with onnxruntime in a deployment, as its documentation writes one; JSON over REST.

Started with PEER_MODEL (an ONNX file), PEER_PORT and PEER_WORKERS (its replicas).
"""

import os
import signal

import numpy as np
import onnxruntime
import ray
from ray import serve
from starlette.requests import Request


@serve.deployment(
    num_replicas=int(os.environ.get("PEER_WORKERS", "1")),
    max_ongoing_requests=64,
    logging_config={"enable_access_log": False},
)
class OnnxModel:
    """The deployment; every replica makes its own session."""

    def __init__(self, model: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    async def __call__(self, request: Request) -> dict:
        """Run one request."""
        tensors = (await request.json())["inputs"]
        feeds = {tensor["name"]: np.array(tensor["data"], np.float32).reshape(tensor["shape"]) for tensor in tensors}
        arrays = self._session.run(None, feeds)
        outputs = [
            {"name": name, "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}
            for name, array in zip(self._names, arrays, strict=True)
        ]
        return {"outputs": outputs}


def main() -> None:
    """Start Ray on loopback, deploy, and wait to be ended."""
    ray.init(
        address="local",
        num_cpus=os.cpu_count(),
        include_dashboard=False,
        object_store_memory=200_000_000,
        _node_ip_address="127.0.0.1",
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PEER_PORT"])})
    serve.run(OnnxModel.bind(os.environ["PEER_MODEL"]))
    signal.pause()


if __name__ == "__main__":
    main()
