"""A model taken apart into a skeleton and blobs, and put together again."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto

from tilth.bridge.external import External, external_of, opened_below
from tilth.bridge.model_checks import BLOB_BYTES, check_model
from tilth.bridge.model_file import parse_model
from tilth.bridge.model_walk import DEFAULT_DOMAINS, Body, Held, bodies
from tilth.bridge.tensor_bytes import byte_count, raw_bytes
from tilth.core.blob import BlobSource, FileRange, read_all, read_range
from tilth.core.digest import digest as digest_of
from tilth.core.dtype import NAMES
from tilth.core.errors import UntrustedError
from tilth.core.graph import Graph


@dataclass(frozen=True)
class Parts:
    """A model in parts: `blobs` holds every weight of 4 KiB or more, and the skeleton itself, by digest."""

    skeleton: bytes
    graph: Graph
    blobs: dict[str, BlobSource]


@dataclass
class _Store:
    """Blobs found so far, and the digests of file ranges, so that shared weights are read once."""

    weights_dir: Path | None
    blobs: dict[str, BlobSource] = field(default_factory=dict)
    ranges: dict[External, str] = field(default_factory=dict)

    def add_bytes(self, data: bytes) -> str:
        name = digest_of(data)
        self.blobs.setdefault(name, data)
        return name

    def add_range(self, ref: External) -> str:
        if ref not in self.ranges:
            state = hashlib.sha256()
            with opened_below(self._folder(), ref.location) as handle:
                for block in read_range(handle, ref.offset, ref.length, ref.location):
                    state.update(block)
            self.ranges[ref] = state.hexdigest()
            path = self._folder() / ref.location
            self.blobs.setdefault(self.ranges[ref], FileRange(path, ref.offset, ref.length))
        return self.ranges[ref]

    def read(self, ref: External) -> bytes:
        with opened_below(self._folder(), ref.location) as handle:
            return read_all(handle, ref.offset, ref.length, ref.location)

    def _folder(self) -> Path:
        assert self.weights_dir is not None, "check_model lets no external data pass without a folder"  # noqa: S101
        return self.weights_dir


def split(model: ModelProto, weights_dir: Path | None) -> Parts:
    """Return `model` in parts; equal models give equal bytes, wherever their weights were kept.

    The model is read, never written. Typed values become raw little-endian bytes; comments of exporters, and fields
    that this version of ONNX does not know, are left out. Large external data stays in its files and is read
    to be hashed.

    Raises:
        TilthError: what `check_model` raises.
    """
    check_model(model, weights_dir)
    store = _Store(weights_dir)
    skeleton = _without_initializers(model)
    for tensor in model.graph.initializer:
        _place(Held(tensor, True), skeleton.graph.initializer.add(), store)
    for body in bodies(skeleton):
        rest = body.tensors if body.outer else body.attribute_tensors
        for held in rest:
            _place(held, held.tensor, store)
    _strip_comments(skeleton)
    skeleton.DiscardUnknownFields()
    data = skeleton.SerializeToString(deterministic=True)
    return Parts(data, facts(skeleton, store.add_bytes(data)), store.blobs)


def join(skeleton: bytes, read: Callable[[str], bytes]) -> ModelProto:
    """Return the model of a skeleton with the weights in it, where `read` gives a blob by digest.

    The skeleton itself is not checked again; `read` must have verified what it returns.

    Raises:
        UntrustedError: a blob is not as long as its tensor.
    """
    model = parse_model(skeleton, "the skeleton")
    for body in bodies(model):
        for held in body.tensors:
            if held.tensor.data_location == TensorProto.EXTERNAL:
                _fill(held.tensor, read)
    return model


def facts(model: ModelProto, digest: str) -> Graph:
    """Return what engines need to know of a skeleton with this digest.

    Element types are those of inputs, outputs, declared values and tensors. Weights are the initializers and the
    values of Constant nodes.
    """
    found = bodies(model)
    held = [item for body in found for item in body.tensors]
    outside = [item.tensor for item in held if item.tensor.data_location == TensorProto.EXTERNAL]
    weights = {ref.location: ref.length for ref in map(_reference, outside)}
    ops = Counter(_op(node) for body in found for node in body.nodes)
    dtypes = {NAMES[item.tensor.data_type] for item in held} | _declared(found)
    return Graph(
        digest=digest,
        opsets=dict(sorted((item.domain or "ai.onnx", item.version) for item in model.opset_import)),
        ops=dict(sorted(ops.items())),
        nodes=ops.total(),
        weights_bytes=sum(byte_count(item.tensor) for item in held if item.weight),
        dtypes=tuple(sorted(dtypes)),
        weights=dict(sorted(weights.items())),
    )


def _without_initializers(model: ModelProto) -> ModelProto:
    # Field by field, because a copy of the whole would hold every weight a second time.
    skeleton = ModelProto()
    for source, target, left_out in ((model, skeleton, "graph"), (model.graph, skeleton.graph, "initializer")):
        for item, value in source.ListFields():
            if item.name == left_out:
                continue
            if item.is_repeated:
                getattr(target, item.name).extend(value)
            elif item.message_type is not None:
                getattr(target, item.name).CopyFrom(value)
            else:
                setattr(target, item.name, value)
    return skeleton


def _place(held: Held, target: TensorProto, store: _Store) -> None:
    source = held.tensor
    if source.data_type == TensorProto.STRING:
        target.CopyFrom(source)
        return
    ref = _reference(source) if source.data_location == TensorProto.EXTERNAL else None
    made = _header(source)
    if held.weight and byte_count(source) >= BLOB_BYTES:
        name = store.add_range(ref) if ref else store.add_bytes(raw_bytes(source))
        _point(made, name, byte_count(source))
    else:
        made.raw_data = store.read(ref) if ref else raw_bytes(source)
    target.CopyFrom(made)


def _header(source: TensorProto) -> TensorProto:
    made = TensorProto(data_type=source.data_type, dims=source.dims)
    if source.HasField("name"):
        made.name = source.name
    return made


def _strip_comments(model: ModelProto) -> None:
    """Clear what exporters note about nodes and values: stack traces hold the author's paths and source lines."""
    model.ClearField("doc_string")
    for body in bodies(model):
        holder = body.holder
        values = [*holder.value_info]
        if isinstance(holder, GraphProto):
            values += [*holder.input, *holder.output]
        for item in (holder, *body.nodes, *values):
            item.ClearField("doc_string")
            item.ClearField("metadata_props")


def _point(tensor: TensorProto, name: str, length: int) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", name), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def _fill(tensor: TensorProto, read: Callable[[str], bytes]) -> None:
    ref = _reference(tensor)
    data = read(ref.location)
    if len(data) != ref.length:
        raise UntrustedError(
            f"blob {ref.location[:12]} has {len(data)} bytes",
            why=f"tensor `{tensor.name[:80]}` needs {ref.length}",
            hint="fetch the bundle again from where it was made",
        )
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = data


def _reference(tensor: TensorProto) -> External:
    return external_of(tensor, byte_count(tensor))


def _op(node: NodeProto) -> str:
    return node.op_type if node.domain in DEFAULT_DOMAINS else f"{node.domain}::{node.op_type}"


def _declared(found: Iterable[Body]) -> set[str]:
    dtypes = set()
    for body in found:
        holder = body.holder
        values = [*holder.value_info]
        if isinstance(holder, GraphProto):
            values += [*holder.input, *holder.output]
        dtypes |= {name for value in values if (name := element_type(value.type))}
    return dtypes


def element_type(kind: TypeProto) -> str:
    """Return the element type below sequences and optionals; empty for maps, sparse tensors and none at all."""
    while True:
        which = kind.WhichOneof("value")
        if which == "tensor_type":
            return NAMES.get(kind.tensor_type.elem_type, "")
        if which not in ("sequence_type", "optional_type"):
            return ""
        kind = kind.sequence_type.elem_type if which == "sequence_type" else kind.optional_type.elem_type
