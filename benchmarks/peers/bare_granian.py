"""What a JSON request costs at least: granian, orjson and onnxruntime with nothing between them, run by Tilth's Python.

Started with PEER_MODEL (an ONNX file), PEER_PORT and PEER_WORKERS. It trusts its caller: no name is looked up, nothing
is checked, counted, logged or batched.
"""

import os

import numpy as np
import onnxruntime
import orjson
from granian import Granian

_HEADERS = [("content-type", "application/json")]
_DTYPES = {"FP32": np.float32, "INT64": np.int64}


class Handler:
    """The RSGI application; every worker makes its own session."""

    def __rsgi_init__(self, loop: object) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"]
        )
        self._names = [output.name for output in self._session.get_outputs()]

    async def __rsgi__(self, scope: object, protocol: object) -> None:
        request = orjson.loads(await protocol())
        feeds = {
            tensor["name"]: np.array(tensor["data"], _DTYPES[tensor["datatype"]]).reshape(tensor["shape"])
            for tensor in request["inputs"]
        }
        arrays = self._session.run(None, feeds)
        outputs = [
            {"name": name, "datatype": "FP32", "shape": array.shape, "data": array.ravel()}
            for name, array in zip(self._names, arrays, strict=True)
        ]
        answer = {"model_name": "mlp", "outputs": outputs}
        protocol.response_bytes(200, _HEADERS, orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY))


app = Handler()

if __name__ == "__main__":
    Granian(
        "bare_granian:app",
        address="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        interface="rsgi",
        workers=int(os.environ["PEER_WORKERS"]),
        websockets=False,
    ).serve()
