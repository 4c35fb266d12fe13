"""A bundle built end to end with onnxruntime: what is kept, what is replaced, and what an interrupt leaves."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tilth import wiring
from tilth.bridge.build import Built, Tools, build_file
from tilth.bridge.bundle_read import open_bundle
from tilth.bridge.bundle_write import write_bundle
from tilth.bridge.cache import Cache
from tilth.bridge.request import Request
from tilth.core.build import Build, Precision, Refusal, Verdict
from tilth.core.bundle import Choice, Manifest, Refused
from tilth.core.certificate import Agreement, Certificate, Placement, Timing
from tilth.core.device import Device
from tilth.core.errors import CancelledError, MissingError, RefusedError, UntrustedError

REQUEST = Request(budget_s=0.3, batches=(1, 4), engines=("ort",))


def build(path: Path, cache: Path, *, out: Path | None = None, progress: Any = None, **changes: Any) -> Built:
    tools = Tools(
        wiring.engines(), wiring.worker_command("measure"), wiring.worker_command("derive"), Cache(cache), "0.1"
    )
    request = replace(REQUEST, **changes)
    return build_file(path, out or path, wiring.this_device(), request, tools, progress or (lambda *_: None))


def stored(path: Path) -> Manifest:
    with open_bundle(path) as bundle:
        bundle.verify()
        return bundle.manifest


@pytest.fixture
def source(doubler: Callable[..., Path]) -> Path:
    return doubler()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def elsewhere(manifest: Manifest) -> Manifest:
    """Return the manifest with a certified build for another chip."""
    made = Build(manifest.graph.digest, "cpu-other", "ort", Precision.FP32, variant=manifest.graph.digest)
    certificate = Certificate(
        build=made.id,
        device=Device("cpu:0", "cpu-other", "another chip"),
        agreement=Agreement(0, 0, 0, 1, 1, 1, 4),
        agrees=True,
        tolerance="",
        timings=(Timing(1, 1, 1, 1, 1000, 10, 0),),
        placement=Placement("cpu", {"cpu": 1}, 0.0, "test"),
        peak_memory_bytes=1,
        load_memory_bytes=1,
        load_ms=1,
        versions={"ort": "1"},
        inputs_digest="",
        measured_at="2026-01-01T00:00:00+00:00",
    )
    return replace(
        manifest,
        builds=(made,),
        certificates=(certificate,),
        choices=(Choice("cpu-other", "latency", made.id, 1, {}),),
        refused=(Refused("x", (Refusal(Verdict.NEVER, "no"),), "cpu-other"),),
    )


def test_a_bundle_gets_builds_once_and_the_cache_gives_them_again(source: Path, cache: Path) -> None:
    first = build(source, cache, budget_s=8.0)
    kept = stored(source)
    choice = first.check()
    assert kept == first.manifest and kept.choices == (choice,)
    certificate = next(c for c in kept.certificates if c.build == choice.build)
    assert certificate.agrees and certificate.agreement.max_rel <= 1e-4 and certificate.placement.fallback_share == 0
    assert certificate.versions["ort"] == wiring.engine("ort").version() and certificate.peak_memory_bytes > 1 << 20
    assert [t.batch for t in certificate.timings] == [1, 4] and certificate.measured_at
    stages: list[str] = []
    before = source.stat()
    again = build(source, cache, progress=lambda stage, *_: stages.append(stage), budget_s=8.0)
    assert again.result.cached and again.check() == choice and stages == [], "no child was started, nothing written"
    assert stored(source) == kept and source.stat() == before, "a rebuild replaces and does not pile up"


def test_another_budget_is_another_search(source: Path, cache: Path) -> None:
    build(source, cache)
    assert not build(source, cache, budget_s=0.2).result.cached


def test_builds_for_other_chips_are_kept(source: Path, cache: Path) -> None:
    with open_bundle(source) as bundle:
        blobs = {name: bundle.source(name) for name in bundle.manifest.blobs}
        other = elsewhere(bundle.manifest)
        write_bundle(source, other, blobs)
    for _ in range(2):
        build(source, cache)
    kept = stored(source)
    assert kept.builds[0] == other.builds[0] and kept.certificates[0] == other.certificates[0]
    assert kept.choices[0] == other.choices[0] and kept.refused[0] == other.refused[0]
    assert [c.target for c in kept.choices] == ["cpu-other", wiring.this_device().target]


def test_nothing_that_agrees_leaves_the_evidence_and_no_choice(doubler: Callable[..., Path], cache: Path) -> None:
    path = doubler(error=0.25)
    built = build(path, cache)
    with pytest.raises(RefusedError, match="agrees with the source framework") as caught:
        built.check()
    assert "relative error" in caught.value.why
    kept = stored(path)
    assert kept.certificates and not any(c.agrees for c in kept.certificates) and kept.choices == ()
    assert build(path, cache).result.cached, "and it is not measured again in vain"


def test_the_result_can_go_elsewhere_and_the_source_stays(source: Path, cache: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    build(source, cache, out=tmp_path / "out.tilth")
    assert source.read_bytes() == before and stored(tmp_path / "out.tilth").choices


def test_an_interrupt_leaves_the_old_bundle_and_no_children_or_files(
    source: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before, files = source.read_bytes(), set(tmp_path.iterdir())

    def stop(stage: str, done: int, total: int, detail: str = "") -> None:
        if stage == "batches":
            raise KeyboardInterrupt

    with pytest.raises(CancelledError, match="interrupted") as caught:
        build(source, cache, progress=stop)
    assert "run the same command again" in caught.value.hint
    assert source.read_bytes() == before and set(tmp_path.iterdir()) <= files | {cache}
    assert list(scratch.iterdir()) == []
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    build(source, cache).check()


@pytest.mark.parametrize("place", ["nowhere/out.tilth", "file/out.tilth"])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_measured(
    source: Path, cache: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    stages: list[str] = []
    with pytest.raises((MissingError, Exception), match="cannot be written"):
        build(source, cache, out=tmp_path / place, progress=lambda stage, *_: stages.append(stage))
    assert stages == []


def test_an_unwritable_cache_only_costs_time(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for _ in range(2):
        assert not build(source, tmp_path / "file").result.cached


def test_a_damaged_bundle_is_not_built(source: Path, cache: Path) -> None:
    data = bytearray(source.read_bytes())
    data[-400] ^= 1
    source.write_bytes(data)
    with pytest.raises(UntrustedError):
        build(source, cache)
