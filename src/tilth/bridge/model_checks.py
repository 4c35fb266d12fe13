"""What must hold for an ONNX model before anything here works on it."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto

from tilth.bridge.external import External, external_of, opened_below
from tilth.bridge.function_checks import check_functions
from tilth.bridge.model_walk import DEFAULT_DOMAINS, Body, bodies
from tilth.bridge.name_checks import check_names
from tilth.bridge.tensor_bytes import byte_count, check_inline
from tilth.core.digest import checked_digest
from tilth.core.errors import InvalidError, UnsupportedError, UntrustedError

#: Tensors of this many bytes and more are blobs of their own.
BLOB_BYTES = 4096
_KNOWN_DOMAINS = frozenset({*DEFAULT_DOMAINS, "ai.onnx.ml", "com.microsoft", "ai.onnx.preview.training"})


def check_model(model: ModelProto, weights_dir: Path | None, *, blobs: Mapping[str, int] | None = None) -> None:
    """Check a model whose external data lies below `weights_dir`.

    With `blobs`, sizes in bytes by digest, the model is a skeleton and its weights lie there instead. External
    data is looked at, never read. That operators exist, and that types fit, is left to the engines.

    Raises:
        InvalidError: something contradicts itself: names, shapes and bytes, versions.
        UnsupportedError: it needs a domain, opset, element type or size that is not handled here.
        UntrustedError: external data is named by a path that leaves the folder, or by a link.
        MissingError: external data is not there.
    """
    check_header(model)
    found = bodies(model)
    check_domains(model, found)
    check_functions(model, found)
    check_names(found)
    ranges = [ref for body in found for ref in _check_body(body, blobs)]
    if blobs is None:
        _check_ranges(ranges, weights_dir)


def check_header(model: ModelProto) -> None:
    """Check versions and presence of the graph; raises what `check_model` raises."""
    if not model.HasField("graph"):
        raise _invalid("the model has no graph", "it holds no field `graph`")
    if not 1 <= model.ir_version <= onnx.IR_VERSION:
        why = f"this version of onnx knows 1 to {onnx.IR_VERSION}"
        error = UnsupportedError if onnx.IR_VERSION < model.ir_version < 1000 else InvalidError
        raise error(
            f"the model says IR version {model.ir_version}",
            why=why,
            hint="upgrade onnx, or export the model again with an older one",
        )
    if not model.opset_import:
        raise _invalid("the model imports no opset", "without one its operators have no meaning")
    _check_opsets(model.opset_import)
    if model.training_info:
        raise UnsupportedError(
            "the model carries `training_info`",
            why="only graphs for inference are built",
            hint="export it in evaluation mode",
        )


def check_domains(model: ModelProto, found: Iterable[Body]) -> None:
    """Check that every operator is of a known domain or is a function of the model.

    Raises:
        UnsupportedError: a domain is neither.
    """
    functions = {(function.domain, function.name) for function in model.functions}
    for body in found:
        for node in body.nodes:
            domain = node.domain
            if domain not in _KNOWN_DOMAINS and (domain, node.op_type) not in functions:
                raise UnsupportedError(
                    f"operator `{node.op_type[:80]}` is of the unknown domain `{domain[:80]}`",
                    why="it is neither an ONNX operator nor a function that the model defines",
                    hint="export the model with standard operators, or define the operator as a function",
                )


def _check_opsets(imports: Iterable[onnx.OperatorSetIdProto]) -> None:
    newest = {"": onnx.defs.onnx_opset_version(), "ai.onnx.ml": onnx.defs.onnx_ml_opset_version()}
    seen: set[str] = set()
    for item in imports:
        domain = "" if item.domain in DEFAULT_DOMAINS else item.domain
        shown = domain[:80] or "ai.onnx"
        if domain in seen:
            raise _invalid(f"opset `{shown}` is imported twice", "a domain has one version")
        seen.add(domain)
        if item.version < 1:
            raise _invalid(f"opset `{shown}` has version {item.version}", "versions start at 1")
        if item.version > newest.get(domain, item.version):
            raise UnsupportedError(
                f"opset `{shown}` has version {item.version}",
                why=f"this version of onnx knows up to {newest[domain]}",
                hint=f"export with opset {newest[domain]} or lower, or upgrade onnx",
            )


def _check_body(body: Body, blobs: Mapping[str, int] | None) -> list[External]:
    if body.sparse:
        raise UnsupportedError(
            "the model holds sparse tensors",
            why="engines disagree on them, and their indices may lie outside",
            hint="export the weights as dense tensors",
        )
    if isinstance(body.holder, onnx.FunctionProto):
        _check_opsets(body.holder.opset_import)
    ranges = []
    for held in body.tensors:
        if held.tensor.data_location != TensorProto.EXTERNAL:
            check_inline(held.tensor)
            continue
        ref = _reference(held.tensor)
        if blobs is not None:
            _check_blob(held.weight, ref, blobs)
        ranges.append(ref)
    return ranges


def _reference(tensor: TensorProto) -> External:
    filled = [f.name for f, _ in tensor.ListFields() if f.name.endswith("_data") and f.name != "external_data"]
    if filled or tensor.HasField("segment") or tensor.data_type == TensorProto.STRING:
        raise _invalid(
            f"tensor `{tensor.name[:80]}` is external and holds data itself, or is of strings",
            "its bytes lie in one place only, and strings never lie outside",
        )
    return external_of(tensor, byte_count(tensor))


def _check_blob(weight: bool, ref: External, blobs: Mapping[str, int]) -> None:
    name = checked_digest(ref.location)
    if not weight or ref.offset or ref.length < BLOB_BYTES or blobs.get(name) != ref.length:
        raise UntrustedError(
            f"the graph refers to blob {name[:12]} in a way that is never written",
            why=f"it wants {ref.length} bytes from {ref.offset} on, the manifest has {blobs.get(name, 'none')}",
            hint="the bundle was altered; fetch it again from where it was made",
        )


def _check_ranges(ranges: Iterable[External], weights_dir: Path | None) -> None:
    used: Counter[str] = Counter()
    for ref in set(ranges):
        used[ref.location] += ref.length
    sizes = {location: _file_size(weights_dir, location) for location in used}
    for ref in ranges:
        if ref.offset + ref.length > sizes[ref.location]:
            raise _invalid(
                f"external data `{ref.location[:80]}` ends at {sizes[ref.location]} bytes",
                f"a tensor lies at {ref.offset} to {ref.offset + ref.length}",
            )
    for location, total in used.items():
        # Overlapping ranges would let a small file stand for any amount of reading.
        if total > sizes[location]:
            raise _invalid(f"tensors overlap in external data `{location[:80]}`", "each has bytes of its own")


def _file_size(weights_dir: Path | None, location: str) -> int:
    if weights_dir is None:
        raise _invalid(f"the model refers to external data `{location[:80]}`", "it came without a folder")
    with opened_below(weights_dir, location) as handle:
        return os.fstat(handle).st_size


def _invalid(what: str, why: str) -> InvalidError:
    return InvalidError(what, why=why, hint="export the model again; the file is damaged or was altered")
