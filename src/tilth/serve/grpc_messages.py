"""The messages of the protocol's gRPC form, as one table of names, numbers and types, and classes made of it.

Source of names and numbers: the Open Inference Protocol's `open_inference_grpc.proto` (package `inference`), with the
calls and messages that Triton adds (repository, statistics, configuration, settings, shared memory, streaming), which
its client uses. The classes live in a pool of their own, so that a client's classes of the same names may be in the
same process.
"""

from functools import cache
from typing import Any

_SCHEMA = """
InferParameter | 1 bool_param bool of parameter_choice | 2 int64_param int64 of parameter_choice
  | 3 string_param string of parameter_choice | 4 double_param double of parameter_choice
  | 5 uint64_param uint64 of parameter_choice
ModelRepositoryParameter | 1 bool_param bool of parameter_choice | 2 int64_param int64 of parameter_choice
  | 3 string_param string of parameter_choice | 4 bytes_param bytes of parameter_choice
SettingValue | 1 value string*
LogValue | 1 bool_param bool of parameter_choice | 2 uint32_param uint32 of parameter_choice
  | 3 string_param string of parameter_choice
ServerLiveRequest
ServerLiveResponse | 1 live bool
ServerReadyRequest
ServerReadyResponse | 1 ready bool
ModelReadyRequest | 1 name string | 2 version string
ModelReadyResponse | 1 ready bool
ServerMetadataRequest
ServerMetadataResponse | 1 name string | 2 version string | 3 extensions string*
ModelMetadataRequest | 1 name string | 2 version string
TensorMetadata | 1 name string | 2 datatype string | 3 shape int64*
ModelMetadataResponse | 1 name string | 2 versions string* | 3 platform string | 4 inputs TensorMetadata*
  | 5 outputs TensorMetadata*
InferTensorContents | 1 bool_contents bool* | 2 int_contents int32* | 3 int64_contents int64* | 4 uint_contents uint32*
  | 5 uint64_contents uint64* | 6 fp32_contents float* | 7 fp64_contents double* | 8 bytes_contents bytes*
InferInputTensor | 1 name string | 2 datatype string | 3 shape int64* | 4 parameters InferParameter by name
  | 5 contents InferTensorContents
InferRequestedOutputTensor | 1 name string | 2 parameters InferParameter by name
ModelInferRequest | 1 model_name string | 2 model_version string | 3 id string | 4 parameters InferParameter by name
  | 5 inputs InferInputTensor* | 6 outputs InferRequestedOutputTensor* | 7 raw_input_contents bytes*
InferOutputTensor | 1 name string | 2 datatype string | 3 shape int64* | 4 parameters InferParameter by name
  | 5 contents InferTensorContents
ModelInferResponse | 1 model_name string | 2 model_version string | 3 id string | 4 parameters InferParameter by name
  | 5 outputs InferOutputTensor* | 6 raw_output_contents bytes*
ModelStreamInferResponse | 1 error_message string | 2 infer_response ModelInferResponse
ModelInput | 1 name string | 2 data_type int32 | 4 dims int64*
ModelOutput | 1 name string | 2 data_type int32 | 3 dims int64*
ModelDynamicBatching | 1 preferred_batch_size int32* | 2 max_queue_delay_microseconds uint64
ModelParameter | 1 string_value string
ModelInstanceGroup | 1 name string | 2 count int32
ModelConfig | 1 name string | 2 platform string | 4 max_batch_size int32 | 5 input ModelInput* | 6 output ModelOutput*
  | 7 instance_group ModelInstanceGroup*
  | 11 dynamic_batching ModelDynamicBatching | 14 parameters ModelParameter by name | 17 backend string
ModelConfigRequest | 1 name string | 2 version string
ModelConfigResponse | 1 config ModelConfig
ModelStatisticsRequest | 1 name string | 2 version string
StatisticDuration | 1 count uint64 | 2 ns uint64
InferStatistics | 1 success StatisticDuration | 2 fail StatisticDuration | 3 queue StatisticDuration
  | 4 compute_input StatisticDuration | 5 compute_infer StatisticDuration | 6 compute_output StatisticDuration
  | 7 cache_hit StatisticDuration | 8 cache_miss StatisticDuration
InferBatchStatistics | 1 batch_size uint64 | 2 compute_input StatisticDuration | 3 compute_infer StatisticDuration
  | 4 compute_output StatisticDuration
ModelStatistics | 1 name string | 2 version string | 3 last_inference uint64 | 4 inference_count uint64
  | 5 execution_count uint64 | 6 inference_stats InferStatistics | 7 batch_stats InferBatchStatistics*
ModelStatisticsResponse | 1 model_stats ModelStatistics*
RepositoryIndexRequest | 1 repository_name string | 2 ready bool
ModelIndex | 1 name string | 2 version string | 3 state string | 4 reason string
RepositoryIndexResponse | 1 models ModelIndex*
RepositoryModelLoadRequest | 1 repository_name string | 2 model_name string
  | 3 parameters ModelRepositoryParameter by name
RepositoryModelLoadResponse
RepositoryModelUnloadRequest | 1 repository_name string | 2 model_name string
  | 3 parameters ModelRepositoryParameter by name
RepositoryModelUnloadResponse
SharedMemoryRequest | 1 name string
SharedMemoryResponse
TraceSettingRequest | 1 settings SettingValue by name | 2 model_name string
TraceSettingResponse | 1 settings SettingValue by name
LogSettingsRequest | 1 settings LogValue by name
LogSettingsResponse | 1 settings LogValue by name
"""

#: Every call: its name, the messages in and out. Shared memory is refused, so that only names of regions are read.
CALLS = (
    ("ServerLive", "ServerLiveRequest", "ServerLiveResponse"),
    ("ServerReady", "ServerReadyRequest", "ServerReadyResponse"),
    ("ModelReady", "ModelReadyRequest", "ModelReadyResponse"),
    ("ServerMetadata", "ServerMetadataRequest", "ServerMetadataResponse"),
    ("ModelMetadata", "ModelMetadataRequest", "ModelMetadataResponse"),
    ("ModelInfer", "ModelInferRequest", "ModelInferResponse"),
    ("ModelConfig", "ModelConfigRequest", "ModelConfigResponse"),
    ("ModelStatistics", "ModelStatisticsRequest", "ModelStatisticsResponse"),
    ("RepositoryIndex", "RepositoryIndexRequest", "RepositoryIndexResponse"),
    ("RepositoryModelLoad", "RepositoryModelLoadRequest", "RepositoryModelLoadResponse"),
    ("RepositoryModelUnload", "RepositoryModelUnloadRequest", "RepositoryModelUnloadResponse"),
    ("TraceSetting", "TraceSettingRequest", "TraceSettingResponse"),
    ("LogSettings", "LogSettingsRequest", "LogSettingsResponse"),
    *(
        (f"{kind}SharedMemory{verb}", "SharedMemoryRequest", "SharedMemoryResponse")
        for kind in ("System", "Cuda")
        for verb in ("Status", "Register", "Unregister")
    ),
)
SERVICE = "inference.GRPCInferenceService"
_SCALARS = ("double", "float", "int64", "uint64", "int32", "bool", "string", "bytes", "uint32")


@cache
def messages() -> dict[str, Any]:
    """Return the message classes by name."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="tilth/inference.proto", package="inference", syntax="proto3")
    for line in _SCHEMA.replace("\n  |", " |").strip().splitlines():
        name, *fields = [part.strip() for part in line.split("|")]
        _add_message(file.message_type.add(name=name), fields)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindFileByName(file.name).message_types_by_name
    return {name: message_factory.GetMessageClass(descriptor) for name, descriptor in found.items()}


def _add_message(message: Any, fields: list[str]) -> None:
    for text in fields:
        number, name, kind, *more = text.split()
        field = message.field.add(name=name, number=int(number), label=3 if kind.endswith("*") or "by" in more else 1)
        if more[:1] == ["by"]:
            _add_map(message, field, kind)
        else:
            _set_type(field, kind.rstrip("*"))
        if more[:1] == ["of"]:
            if not message.oneof_decl:
                message.oneof_decl.add(name=more[1])
            field.oneof_index = 0


def _add_map(message: Any, field: Any, kind: str) -> None:
    # A map is a repeated message of a key and a value, marked as such (protobuf's language guide, "Maps").
    entry = message.nested_type.add(name=field.name.title().replace("_", "") + "Entry")
    entry.options.map_entry = True
    _set_type(entry.field.add(name="key", number=1, label=1), "string")
    _set_type(entry.field.add(name="value", number=2, label=1), kind)
    field.type, field.type_name = field.TYPE_MESSAGE, f".inference.{message.name}.{entry.name}"


def _set_type(field: Any, kind: str) -> None:
    if kind in _SCALARS:
        field.type = getattr(field, f"TYPE_{kind.upper()}")
    else:
        field.type, field.type_name = field.TYPE_MESSAGE, f".inference.{kind}"
