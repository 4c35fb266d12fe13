"""What a gRPC request costs at least: grpc.aio, protobuf and onnxruntime with nothing between them, in one process.

Started with PEER_MODEL (an ONNX file) and PEER_GRPC_PORT, by Tilth's Python. It trusts its caller: no name is looked
up, nothing is checked, counted, logged or batched.
"""

import asyncio
import os

import grpc
import oip
import onnxruntime


def handler() -> grpc.GenericRpcHandler:
    """Return the service with its one method."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    async def infer(request: object, context: object) -> object:
        arrays = oip.arrays_of(request.inputs, request.raw_input_contents)
        feeds = {tensor.name: array for tensor, array in zip(request.inputs, arrays, strict=True)}
        return oip.infer_response(request.model_name, names, session.run(None, feeds))

    method = grpc.unary_unary_rpc_method_handler(
        infer, oip.ModelInferRequest.FromString, oip.ModelInferResponse.SerializeToString
    )
    return grpc.method_handlers_generic_handler(oip.SERVICE, {"ModelInfer": method})


async def main() -> None:
    """Serve until the process is ended."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler(),))
    server.add_insecure_port(f"127.0.0.1:{os.environ['PEER_GRPC_PORT']}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
