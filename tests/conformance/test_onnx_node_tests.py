"""ONNX's own node tests: through a bundle what onnxruntime passes alone, bit for bit; the rest with reasons."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from in_process import in_process

from tilth import wiring
from tilth.core.errors import InvalidError, TilthError
from tilth.testing.node_tests import NodeCase, bit_difference, chunk, node_cases
from tilth.testing.round_trip import from_bundle, imported, refusal, through_file
from tilth.testing.survey import Kind, survey

#: Parts of the tests that take as long as one another, for several processes to share.
CHUNKS = 16
#: A child is started per part here.
ENGINE_CHUNKS = 6
RAN = (Kind.AGREES, Kind.CLOSE, Kind.DISAGREES)


def through_a_bundle(case: NodeCase, folder: Path) -> str:
    """Return what is wrong, or nothing: see the test."""
    alone, wanted = in_process(case)
    parts = (next(f for f in wiring.frontends() if f.name == "onnx"), wiring.engine("ort"), wiring.this_device())
    bundle = folder / "case.tilth"
    recorded = {**case.inputs, **case.outputs} if alone.kind in RAN else case.inputs
    if alone.kind not in (Kind.AGREES, Kind.CLOSE):
        error = refusal(case, recorded, *parts, bundle)
        return "" if error.why else f"refused without a reason: {error}"
    imported(case, through_file(case.inputs, folder / "sample.npz"), *parts, bundle)
    # The second call goes through whatever the engine keeps from the first.
    found = [bit_difference(one, wanted) for one in from_bundle(bundle, *parts[1:], calls=2)]
    if alone.kind is Kind.CLOSE:
        imported(case, recorded, *parts, bundle)
    return "; ".join(filter(None, found))


@pytest.mark.parametrize("index", range(CHUNKS))
def test_what_onnxruntime_passes_alone_passes_through_a_bundle_bit_for_bit_and_the_rest_is_refused(index: int) -> None:
    failed = []
    for case in chunk(index, CHUNKS):
        with TemporaryDirectory() as folder:
            try:
                words = through_a_bundle(case, Path(folder))
            except (TilthError, LookupError) as error:
                words = str(error)
        if words:
            failed.append(f"{case.name}: {words}")
    assert failed == [], "\n".join(failed)


@pytest.mark.parametrize("index", range(ENGINE_CHUNKS))
@pytest.mark.parametrize("name", ["openvino", "reference"])
def test_what_another_engine_makes_of_them_is_known_and_ends_no_process(name: str, index: int, tmp_path: Path) -> None:
    pytest.importorskip("openvino" if name == "openvino" else "onnx")
    cases = chunk(index, ENGINE_CHUNKS)
    command = wiring.worker_command("measure")
    outcomes = list(survey(wiring.engine(name), command, wiring.this_device(), cases, tmp_path))
    assert [outcome.case for outcome in outcomes] == [case.name for case in cases]
    broken = [f"{o.case}: {o.kind}: {o.reason}" for o in outcomes if o.kind is Kind.BROKEN]
    silent = [o.case for o in outcomes if not o.reason and o.kind is not Kind.AGREES]
    assert broken + silent == [], "\n".join(broken + silent)
    assert Counter(outcome.kind for outcome in outcomes)[Kind.AGREES] > len(cases) / 2


def test_the_node_tests_are_all_here() -> None:
    """A version of onnx whose tests moved elsewhere must not pass for one that has none."""
    assert len(node_cases()) > 1500
    assert len({case.name for case in node_cases()}) == len(node_cases())


def test_a_sample_whose_type_a_file_would_forget_is_not_written(tmp_path: Path) -> None:
    case = next(case for case in node_cases() if case.name == "test_cast_BFLOAT16_to_FLOAT")
    with pytest.raises(InvalidError, match="bfloat16"):
        through_file(case.inputs, tmp_path / "sample.npz")
