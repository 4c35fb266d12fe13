"""From a framework's model to a bundle without builds: graph, signature and golden set, proven before it is kept."""

import datetime
import itertools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tilth.bridge.agreement import Tolerance, compare, objections
from tilth.bridge.arrays import encode_value
from tilth.bridge.batch import resized, rows, size_bytes
from tilth.bridge.check_values import checked
from tilth.bridge.interface import fixed_batch, proven_outputs, read_signature
from tilth.bridge.sample import made_samples
from tilth.bridge.skeleton import Parts, join, split
from tilth.core.blob import BlobSource, bytes_of, sizes_of
from tilth.core.build import Precision
from tilth.core.bundle import SCHEMA, Case, Golden, Manifest, Source
from tilth.core.bundle import Value as Record
from tilth.core.certificate import Agreement
from tilth.core.errors import InvalidError, RefusedError, TilthError, UnsupportedError
from tilth.core.signature import Signature
from tilth.ports.arrays import Value, Values
from tilth.ports.engine import Session
from tilth.ports.frontend import Capture, Frontend

#: Golden inputs and outputs beyond this cost every candidate more time than they add evidence; rows are cut.
MOST_GOLDEN_BYTES = 4 << 20
_GOLDEN_ROWS = 256

Pair = tuple[dict[str, Value], dict[str, Value]]


@dataclass(frozen=True)
class Captured:
    """A bundle in memory: its manifest, its blobs, and how well the graph repeats the source framework."""

    manifest: Manifest
    blobs: Mapping[str, BlobSource]
    agreement: Agreement


@dataclass(frozen=True)
class Terms:
    """What import accepts: how far the graph may be from its source, and whether NaN and infinities may be golden."""

    tolerance: Tolerance = Tolerance()
    nonfinite: bool = False


def capture(
    frontend: Frontend,
    model: object,
    sample: Any | None,
    *,
    name: str,
    version: str,
    load: Callable[[Path], Session],
    terms: Terms = Terms(),
) -> Captured:
    """Return the model as a bundle; `load` opens an ONNX file in the engine that proves the graph.

    The golden set holds the sample and, where the batch may vary, the same rows at a second batch size; its outputs
    come from the source framework. The graph must repeat them within `terms.tolerance`.

    Raises:
        UnsupportedError: the frontend or the proving engine refuses the model.
        InvalidError: the sample does not fit, or the source framework answers NaN or an infinity.
        RefusedError: the graph answers differently from the source framework.
    """
    refusals = frontend.refusals(model)
    if refusals:
        raise UnsupportedError(
            f"`{frontend.name}` cannot capture this model",
            why="; ".join(r.reason for r in refusals),
            hint="docs/reference/support.md lists what each frontend takes",
        )
    taken = frontend.capture(model, sample)
    parts = split(taken.model, taken.weights_dir)
    signature = read_signature(taken.model, batched=taken.batched)
    with tempfile.TemporaryDirectory(prefix="tilth-") as folder:
        session = load(_written(parts, Path(folder)))
        try:
            signature, pairs, notes = _golden(taken, signature, terms)
            agreement = _proven(session, pairs, terms.tolerance)
        finally:
            session.close()
    source = Source(taken.framework, taken.version, name, (*taken.notes, *notes))
    return _assembled(parts, signature, source, "made" if taken.sample is None else "given", pairs, agreement, version)


def _written(parts: Parts, folder: Path) -> Path:
    model = join(parts.skeleton, lambda name: bytes_of(parts.blobs[name]))
    path = folder / "model.onnx"
    if model.ByteSize() < (1 << 30):
        path.write_bytes(model.SerializeToString())
        return path
    for digest in parts.graph.weights:
        (folder / digest).write_bytes(bytes_of(parts.blobs[digest]))
    path.write_bytes(parts.skeleton)
    return path


def _golden(taken: Capture, signature: Signature, terms: Terms) -> tuple[Signature, list[Pair], list[str]]:
    if taken.sample is None:
        signature, pairs, note = _from_made(taken, signature)
        notes = ["the sample inputs were made from the signature; give real ones with --sample", *note]
    else:
        inputs = _few_rows(taken, checked(taken.sample, signature), signature)
        signature, pairs, notes = _both_batches(taken, signature, inputs)
    if not terms.nonfinite:
        _check_finite(pairs, made=taken.sample is None)
    return signature, pairs, notes


def _from_made(taken: Capture, signature: Signature) -> tuple[Signature, list[Pair], list[str]]:
    last: Exception | None = None
    for inputs in made_samples(signature):
        try:
            return _both_batches(taken, signature, inputs)
        except Exception as error:  # the source framework's own, of any class
            last = error
    raise InvalidError(
        "no sample made from the signature runs",
        why=f"{type(last).__name__}: {last}"[:500],
        hint="give a real one: `--sample inputs.npz` with one array per input; the graph takes "
        + "; ".join(str(s) for s in signature.inputs[:8]),
    )


def _few_rows(taken: Capture, inputs: dict[str, Value], signature: Signature) -> dict[str, Value]:
    """Return as many rows as keep the golden set within its limits, judged by the size of one row."""
    count = rows(inputs, signature)
    if count <= 2 or not signature.dynamic_batch:
        return inputs
    one = resized(inputs, signature, 1)
    try:
        size = size_bytes(one) + size_bytes(_run_source(taken, one))
    except Exception:  # a model that cannot do one row says so at the second batch size
        return inputs
    few = max(4, min(count, _GOLDEN_ROWS, MOST_GOLDEN_BYTES // max(1, size)))
    if few < count and taken.recorded is None:
        return resized(inputs, signature, few)
    return inputs


def _both_batches(
    taken: Capture, signature: Signature, inputs: dict[str, Value]
) -> tuple[Signature, list[Pair], list[str]]:
    """Run the source framework on the sample and, if the batch may vary, at a second batch size."""
    count = rows(inputs, signature)
    outputs = _run_source(taken, inputs)
    if taken.recorded is not None:
        outputs = {**outputs, **_as_given(taken.recorded, outputs)}
    pairs = [(inputs, outputs)]
    if not signature.dynamic_batch:
        return proven_outputs(signature, [(count, outputs)]), pairs, []
    other = resized(inputs, signature, 1 if count > 1 else 3)
    try:
        pairs.append((other, _run_source(taken, other)))
    except Exception as error:  # the source framework's own, of any class
        note = f"the batch is fixed at {count}: at {rows(other, signature)} the source says {error}"[:300]
        return proven_outputs(fixed_batch(signature, count), [(count, outputs)]), pairs, [note]
    seen = [(rows(one, signature), made) for one, made in pairs]
    return proven_outputs(signature, seen), pairs, []


def _run_source(taken: Capture, inputs: dict[str, Value]) -> dict[str, Value]:
    return {name: _plain(value) for name, value in taken.run(inputs).items()}


def _plain(value: Value) -> Value:
    return value if value is None or isinstance(value, list | tuple) else np.asarray(value)


def _as_given(recorded: Values, outputs: Mapping[str, Value]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, value in recorded.items():
        own = outputs.get(name)
        if isinstance(value, np.ndarray) and isinstance(own, np.ndarray) and value.shape != own.shape:
            raise InvalidError(
                f"the sample's recorded output `{name}` has shape {list(value.shape)}",
                why=f"the graph gives {list(own.shape)}",
                hint="record the outputs for exactly the inputs in the sample",
            )
        found[name] = value
    return found


def _check_finite(pairs: list[Pair], *, made: bool) -> None:
    for name, value in itertools.chain.from_iterable(outputs.items() for _, outputs in pairs):
        for array in value if isinstance(value, list | tuple) else [value]:
            if isinstance(array, np.ndarray) and array.dtype.kind in "fc" and not np.all(np.isfinite(array)):
                raise InvalidError(
                    f"the golden output `{name}` holds NaN or an infinity",
                    why="the source framework itself answers so for "
                    + ("inputs made from the signature" if made else "this sample"),
                    hint="give a sample of real inputs, or accept it with `--nonfinite`",
                )


def _proven(session: Session, pairs: list[Pair], tolerance: Tolerance) -> Agreement:
    try:
        ran = [(session.run(inputs), outputs) for inputs, outputs in pairs]
    except TilthError as error:
        raise UnsupportedError(
            "the captured graph does not run", why=error.why or error.what, hint="export it for another batch or opset"
        ) from None
    found = objections(ran, tolerance, Precision.FP32)
    if found:
        raise RefusedError(
            "the captured graph answers differently from the source framework",
            why="; ".join(found),
            hint="look at the exporter's options; `--tolerance 1%` accepts a larger difference",
        )
    return compare(ran)


def _assembled(
    parts: Parts,
    signature: Signature,
    source: Source,
    origin: str,
    pairs: list[Pair],
    agreement: Agreement,
    version: str,
) -> Captured:
    blobs: dict[str, BlobSource] = dict(parts.blobs)
    cases = []
    for inputs, outputs in pairs:
        encoded = [_encoded(values, blobs) for values in (inputs, outputs)]
        cases.append(Case(encoded[0], encoded[1]))
    notes = {"import": f"max relative error {agreement.max_rel:.3g} to {source.framework} at {len(pairs)} batch sizes"}
    manifest = Manifest(
        schema=SCHEMA,
        name=source.name,
        created_at=now(),
        source=source,
        graphs=(parts.graph,),
        signature=signature,
        golden=Golden("given" if origin == "given" else "made", tuple(cases)),
        blobs=sizes_of(blobs),
        tilth=version,
        notes=notes,
    )
    return Captured(manifest, blobs, agreement)


def _encoded(values: Values, blobs: dict[str, BlobSource]) -> dict[str, Record]:
    records = {}
    for name, value in values.items():
        records[name], data = encode_value(value)
        blobs.update(data)
    return records


def now() -> str:
    """Return the time in UTC to the second, as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
