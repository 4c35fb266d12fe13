"""A node test through the product: imported into a bundle, and run from what the bundle holds."""

from pathlib import Path

from tilth.bridge.bundle_read import open_bundle
from tilth.bridge.bundle_write import write_bundle
from tilth.bridge.capture import Terms, capture
from tilth.bridge.capture_child import loader
from tilth.bridge.value_file import read_values, write_values
from tilth.core.build import Build, Precision
from tilth.core.bundle import Manifest
from tilth.core.device import Device
from tilth.core.errors import TilthError
from tilth.ports.arrays import Value, Values
from tilth.ports.engine import Engine
from tilth.ports.frontend import Frontend
from tilth.testing.node_tests import NodeCase


def imported(case: NodeCase, sample: Values, frontend: Frontend, engine: Engine, device: Device, out: Path) -> Manifest:
    """Import the case's model with a sample, NaN and infinities allowed, and write a bundle at `out`.

    Arrays of `sample` under the names of outputs are recorded outputs, which the graph must repeat.

    Raises:
        TilthError: the import is refused.
    """
    model = out.with_suffix(".onnx")
    model.write_bytes(case.model.SerializeToString())
    terms, load = Terms(nonfinite=True), loader(engine, device)
    captured = capture(frontend, model, sample, name=case.name, version="", load=load, terms=terms)
    write_bundle(out, captured.manifest, captured.blobs)
    return captured.manifest


def refusal(
    case: NodeCase, sample: Values, frontend: Frontend, engine: Engine, device: Device, out: Path
) -> TilthError:
    """Return the error with which the import is refused.

    Raises:
        LookupError: it is not refused.
    """
    try:
        imported(case, sample, frontend, engine, device, out)
    except TilthError as error:
        return error
    raise LookupError(f"{case.name} is imported")


def from_bundle(path: Path, engine: Engine, device: Device, *, calls: int) -> list[dict[str, Value]]:
    """Run the plain fp32 build of a bundle's graph on its first golden inputs, `calls` times in one session.

    The folder beside `path` is used and removed by the caller. Raises what the parts raise.
    """
    with open_bundle(path) as bundle:
        bundle.verify()
        inputs, _ = bundle.golden()[0]
        digest = bundle.manifest.graph.digest
        model = bundle.materialise(digest, path.with_suffix(".model"))
    session = engine.load(model, Build(digest, device.target, engine.name, Precision.FP32), device)
    try:
        return [session.run(inputs) for _ in range(calls)]
    finally:
        session.close()


def through_file(values: Values, path: Path) -> dict[str, Value]:
    """Return values as they come back from the `.npz` file that a user gives."""
    write_values(path, values)
    return read_values(path)
