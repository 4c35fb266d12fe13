"""Loading and running: only what was certified, only where it was, and only on what fits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from faulty_engine import FaultyEngine, FaultySession
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth import wiring
from tilth.bridge.bundle_read import Bundle, open_bundle
from tilth.bridge.bundle_write import write_bundle
from tilth.bridge.check_values import checked
from tilth.bridge.interface import read_signature
from tilth.bridge.model import Model, chosen, load_model
from tilth.core.build import Build, Precision
from tilth.core.bundle import Choice, Manifest
from tilth.core.certificate import Agreement, Certificate, Placement, Timing
from tilth.core.device import Device
from tilth.core.errors import InvalidError, MissingError, RefusedError, UntrustedError
from tilth.core.signature import Signature, TensorSpec
from tilth.ports.engine import Repeats
from tilth.testing.models import SmallModel, affine, perceptron

DEVICE = Device("cpu:0", "cpu-x86_64", "a chip", 2, 1 << 30, ("avx2",), "Linux 6.1")


def certified(manifest: Manifest, **settings: Any) -> Manifest:
    digest = manifest.graph.digest
    build = Build(digest, DEVICE.target, "faulty", Precision.FP32, variant=digest, settings=settings)
    certificate = Certificate(
        build=build.id,
        device=DEVICE,
        agreement=Agreement(0, 0, 0, 1, 1, 1, 4),
        agrees=True,
        tolerance="",
        timings=(Timing(1, 1, 1, 1, 1000, 10, 0),),
        placement=Placement("cpu", {"cpu": 2}, 0.0, "test"),
        peak_memory_bytes=1,
        load_memory_bytes=1,
        load_ms=1,
        versions={"faulty": "1.0"},
        inputs_digest="",
        measured_at="now",
    )
    choice = Choice(DEVICE.target, "latency", build.id, 1, {})
    return replace(manifest, builds=(build,), certificates=(certificate,), choices=(choice,))


@pytest.fixture
def bundle(doubler: Callable[..., Path]) -> Callable[..., Bundle]:
    """A function that opens a bundle whose chosen build has the given settings."""

    def make(**settings: Any) -> Bundle:
        path = doubler()
        with open_bundle(path) as source:
            blobs = {name: source.source(name) for name in source.manifest.blobs}
            write_bundle(path, certified(source.manifest, **settings), blobs)
        return open_bundle(path)

    return make


def loaded(opened: Bundle, device: Device = DEVICE, engine: FaultyEngine | None = None) -> Model:
    with opened:
        return load_model(opened, device, {"faulty": engine or FaultyEngine()})


def test_a_certified_build_runs_where_it_was_certified(bundle: Callable[..., Bundle]) -> None:
    with loaded(bundle()) as model:
        x = np.ones((3, 2), np.float32)
        assert np.array_equal(model.run({"x": x})["y"], x * 2)  # type: ignore[arg-type]
        assert model.build.engine == "faulty" and model.certificate.agrees and model.signature.dynamic_batch


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": "another chip"}, "measured on `a chip`, and this is `another chip`"),
        ({"isa": ("avx2", "avx512f")}, "certified on another chip"),
        ({"target": "cpu-aarch64"}, "no certified build for `cpu-aarch64`"),
        ({"target": "simulated:cpu-x86_64"}, "no certified build"),
    ],
)
def test_another_chip_is_refused(bundle: Callable[..., Bundle], change: Any, why: str) -> None:
    with pytest.raises(RefusedError) as caught:
        loaded(bundle(), replace(DEVICE, **change))
    assert why in str(caught.value) and "tilth build" in caught.value.hint


@pytest.mark.parametrize("change", [{"cores": 64}, {"memory_bytes": 1}, {"driver": "Linux 6.2"}, {"id": "cpu:1"}])
def test_another_share_of_the_same_chip_is_not(bundle: Callable[..., Bundle], change: Any) -> None:
    loaded(bundle(), replace(DEVICE, **change)).close()


def test_another_version_of_the_engine_is_refused(bundle: Callable[..., Bundle]) -> None:
    with pytest.raises(RefusedError, match="certified with faulty 1.0") as caught:
        loaded(bundle(), engine=FaultyEngine(installed="1.1"))
    assert "faulty 1.1 is installed" in caught.value.why


def test_an_engine_that_is_gone_is_named(bundle: Callable[..., Bundle]) -> None:
    with bundle() as opened, pytest.raises(MissingError, match="no engine `faulty`"):
        load_model(opened, DEVICE, {})
    with pytest.raises(MissingError, match="not installed"):
        loaded(bundle(), engine=FaultyEngine(installed=""))


def test_a_build_that_would_run_elsewhere_than_certified_is_refused(bundle: Callable[..., Bundle]) -> None:
    with pytest.raises(RefusedError, match="would run elsewhere") as caught:
        loaded(bundle(elsewhere=True))
    assert "'python': 1" in caught.value.why


def test_a_build_that_cannot_run_its_golden_inputs_does_not_load(bundle: Callable[..., Bundle]) -> None:
    with pytest.raises(InvalidError, match="the engine refuses"):
        loaded(bundle(fault="refuse", when=1))


@pytest.mark.parametrize(
    "change",
    [
        {"builds": ()},
        {"certificates": ()},
        {"choices": (Choice(DEVICE.target, "latency", "0" * 12, 1, {}),)},
        {"agrees": False},
        {"target": "cpu-other"},
    ],
)
def test_a_choice_that_nothing_certifies_is_not_trusted(doubler: Callable[..., Path], change: Any) -> None:
    with open_bundle(doubler()) as source:
        made = certified(source.manifest)
    if "agrees" in change:
        made = replace(made, certificates=(replace(made.certificates[0], agrees=False),))
    elif "target" in change:
        other = replace(made.builds[0], target="cpu-other")
        certificate = replace(made.certificates[0], build=other.id)
        choice = replace(made.choices[0], build=other.id)
        made = replace(made, builds=(other,), certificates=(certificate,), choices=(choice,))
    else:
        made = replace(made, **change)
    with pytest.raises(UntrustedError, match="not a build that its certificate calls good"):
        chosen(made, DEVICE)


def test_a_bundle_without_builds_says_what_to_do(doubler: Callable[..., Path]) -> None:
    with open_bundle(doubler()) as opened, pytest.raises(RefusedError, match="no certified build") as caught:
        load_model(opened, DEVICE, {"faulty": FaultyEngine()})
    assert caught.value.why.endswith("for: none") and caught.value.hint == "run `tilth build` on this machine"


X = np.ones((3, 2), np.float32)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"X": X},
        {"x": X, "z": X},
        {"x": X.astype(np.float64)},
        {"x": X[:, :1]},
        {"x": X[0]},
        {"x": None},
        {"x": "hello"},
        {"x": [[1, 2], [3]]},
    ],
)
def test_inputs_that_do_not_fit_are_refused_and_the_model_goes_on(bundle: Callable[..., Bundle], inputs: Any) -> None:
    with loaded(bundle()) as model:
        with pytest.raises(InvalidError):
            model.run(inputs)
        assert np.array_equal(model.run({"x": X})["y"], X * 2)  # type: ignore[arg-type]


def test_values_of_other_kinds_become_arrays(bundle: Callable[..., Bundle]) -> None:
    with loaded(bundle()) as model:
        for value in ([[1, 2]], np.array([[1, 2]], ">f4"), np.asfortranarray(np.array([[1, 2]], np.float32))):
            found: Any = model.run({"x": value})["y"]
            assert found.tolist() == [[2, 4]]


class Echo:
    def run(self, inputs: Any) -> Any:
        return dict(inputs)

    def placement(self) -> Placement:
        return Placement("cpu", {}, 0.0, "")

    def close(self) -> None:
        return


_dims = st.sampled_from(["batch", "n", "?", 1, 2, 3])
_specs = st.lists(
    st.tuples(st.sampled_from(["float32", "int64"]), st.none() | st.lists(_dims, max_size=3)), min_size=1, max_size=3
)
_shape = st.lists(st.integers(0, 3), max_size=3)


@settings(max_examples=200, deadline=None)
@given(_specs, st.data())
def test_the_quick_way_takes_and_refuses_exactly_what_the_full_check_does(specs: Any, data: st.DataObject) -> None:
    signature = Signature(
        tuple(
            TensorSpec(f"x{i}", dtype, shape if shape is None else tuple(shape))
            for i, (dtype, shape) in enumerate(specs)
        ),
        (),
    )
    sizes = {"batch": data.draw(st.integers(0, 3)), "n": 2, "?": 1}
    inputs = {}
    for spec in signature.inputs:
        fitting = [sizes.get(dim, dim) for dim in spec.shape or ()]
        shape = data.draw(st.just(fitting) | _shape)
        dtype = data.draw(st.just(spec.dtype) | st.sampled_from(["float32", "int64", "float64", ">f4"]))
        inputs[spec.name] = np.zeros(shape, dtype)
    model = Model(Echo(), signature, Build("", "", "", Precision.FP32), None)  # type: ignore[arg-type]
    try:
        wanted = checked(inputs, signature)
    except InvalidError as error:
        with pytest.raises(InvalidError) as caught:
            model.run(inputs)
        assert str(caught.value) == str(error)
    else:
        found: Any = model.run(inputs)
        assert {n: (a.shape, a.dtype) for n, a in found.items()} == {  # type: ignore[union-attr]
            n: (a.shape, a.dtype)
            for n, a in wanted.items()  # type: ignore[union-attr]
        }


@pytest.mark.parametrize("small", [affine(), perceptron()], ids=lambda small: str(small.name))
def test_the_short_way_for_a_repeated_call_refuses_what_the_first_call_would(small: SmallModel, tmp_path: Path) -> None:
    onnx.save(small.model, tmp_path / "m.onnx")
    signature = read_signature(small.model, batched=True)
    (spec,) = signature.inputs
    build = Build("", DEVICE.target, "ort", Precision.FP32)
    x = np.arange(3 * int(spec.shape[1]), dtype=np.float32).reshape(3, -1)  # type: ignore[index,call-overload]
    bad = [{}, {"X": x}, {spec.name: x, "z": x}, {spec.name: x.astype(np.float64)}, {spec.name: x[:, :1]}]
    bad += [{spec.name: None}, {spec.name: "hello"}]
    refused = []
    for calls in (0, 3):
        session = wiring.engines()["ort"].load(tmp_path / "m.onnx", build, DEVICE)
        assert isinstance(session, Repeats)
        with Model(session, signature, build, None) as model:  # type: ignore[arg-type]
            answers: list[Any] = [model.run({spec.name: x}) for _ in range(calls)]
            told = []
            for inputs in bad:
                with pytest.raises(InvalidError) as caught:
                    model.run(inputs)
                told.append(str(caught.value))
            refused.append(told)
            again: Any = model.run({spec.name: x})
            assert list(again) == [output.name for output in signature.outputs]
            for one in answers:
                for name, value in again.items():
                    assert np.array_equal(one[name], value) and not np.shares_memory(one[name], value)
            fewer: Any = model.run({spec.name: x[:1]})
            assert all(len(value) == 1 for value in fewer.values())
    assert refused[0] == refused[1]


def test_a_session_of_a_fake_is_a_session() -> None:
    session = FaultySession(Build("", "", "", Precision.FP32))
    assert session.run({"x": X})["y"].shape == X.shape
