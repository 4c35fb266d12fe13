"""What `tilth doctor` finds, on facts of machines that are not here."""

import os
from dataclasses import replace
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest

from tilth.bridge import machine_facts
from tilth.bridge.doctor import EngineFacts, Facts, Finding, Level, Offer, diagnose
from tilth.core.device import Device

CPU = Device(id="cpu:0", target="cpu-x86_64", name="a CPU", cores=8, isa=("avx2", "avx512_vnni", "amx_bf16"))
ORT = EngineFacts("ort", "1.0", (Offer("cpu:0", "cpu-x86_64", ("fp32", "int8")),))
GOOD = Facts(
    python=(3, 11, 13),
    sqlite=(3, 51, 3),
    devices=(CPU,),
    engines=(ORT,),
    processors=8,
    load=0.5,
    governor="performance",
    cache="/home/a/.cache/tilth",
    cache_free_bytes=50 << 30,
)


def bad(facts: Facts) -> list[Finding]:
    return [finding for finding in diagnose(facts) if finding.level is not Level.OK]


def only(facts: Facts) -> Finding:
    (finding,) = bad(facts)
    assert finding.why and finding.hint
    return finding


def test_a_sound_machine_has_nothing_to_look_at() -> None:
    assert bad(GOOD) == []
    assert len(diagnose(GOOD)) >= 7


@pytest.mark.parametrize(
    ("python", "unsafe"),
    [
        ((3, 11, 12), True),
        ((3, 11, 13), False),
        ((3, 12, 10), True),
        ((3, 12, 11), False),
        ((3, 13, 3), True),
        ((3, 13, 4), False),
        ((3, 14, 0), False),
    ],
)
def test_a_python_whose_tar_filter_can_be_escaped_is_told(python: tuple[int, ...], unsafe: bool) -> None:
    found = bad(replace(GOOD, python=python))
    assert bool(found) is unsafe
    assert all("CVE-2025-4517" in finding.why and finding.level is Level.WARN for finding in found)


def test_a_patched_python_of_a_distribution_is_not_blamed_for_its_version() -> None:
    assert bad(replace(GOOD, python=(3, 11, 2), tar_filter_fixed=True)) == []


@pytest.mark.parametrize(
    ("sqlite", "unsafe"),
    [
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 53, 0), False),
    ],
)
def test_a_sqlite_that_can_corrupt_is_told(sqlite: tuple[int, ...], unsafe: bool) -> None:
    assert bool(bad(replace(GOOD, sqlite=sqlite))) is unsafe


def test_two_onnxruntimes_are_an_error_and_two_others_a_warning() -> None:
    finding = only(replace(GOOD, owners={"onnxruntime": ("onnxruntime", "onnxruntime-cann")}))
    assert finding.level is Level.ERROR
    assert "pip uninstall -y onnxruntime onnxruntime-cann" in finding.hint
    assert only(replace(GOOD, owners={"attr": ("attr", "attrs")})).level is Level.WARN


def test_torch_npu_without_cann_breaks_torch_unless_it_is_not_loaded() -> None:
    facts = replace(GOOD, distributions={"torch-npu": "2.13.0"})
    assert only(facts).level is Level.ERROR
    assert "TORCH_DEVICE_BACKEND_AUTOLOAD=0" in only(facts).hint
    assert bad(replace(facts, environment={"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"})) == []
    assert bad(replace(facts, cann=True)) == []


def test_onnxruntime_cann_with_numpy_2_cannot_be_imported() -> None:
    facts = replace(GOOD, cann=True, distributions={"onnxruntime-cann": "1.24.4", "numpy": "2.4.6"})
    assert only(facts).level is Level.ERROR
    assert "numpy<2" in only(facts).hint
    assert bad(replace(facts, distributions={"onnxruntime-cann": "1.24.4", "numpy": "1.26.4"})) == []


def test_onnxruntime_cann_without_cann_would_run_on_the_cpu_unnoticed() -> None:
    finding = only(replace(GOOD, distributions={"onnxruntime-cann": "1.24.4", "numpy": "1.26.4"}))
    assert finding.level is Level.WARN
    assert "CPU" in finding.why


def test_a_machine_without_engines_is_an_error() -> None:
    absent = EngineFacts("ort", "", (), "no module", "run `pip install onnxruntime`")
    finding = only(replace(GOOD, engines=(absent,)))
    assert finding.level is Level.ERROR
    assert finding.hint == "run `pip install onnxruntime`"


def test_a_chip_feature_that_a_missing_engine_would_use_is_named() -> None:
    offer = Offer("cpu:0", "cpu-x86_64", ("fp32", "bf16", "int8"))
    absent = EngineFacts("openvino", "", (offer,), "no module", "run `pip install 'tilth[openvino]'`")
    finding = only(replace(GOOD, engines=(ORT, absent)))
    assert "avx512_vnni, amx_bf16" in finding.what
    assert finding.hint == "run `pip install 'tilth[openvino]'`"
    plain = replace(CPU, isa=("avx2",))
    assert bad(replace(GOOD, engines=(ORT, absent), devices=(plain,))) == []


def test_a_quota_below_the_visible_processors_is_told() -> None:
    finding = only(replace(GOOD, processors=64))
    assert "8 of 64" in finding.what


def test_thread_settings_in_the_environment_are_told_with_their_values() -> None:
    finding = only(replace(GOOD, environment={"OMP_NUM_THREADS": "1", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}))
    assert "OMP_NUM_THREADS=1" in finding.what
    assert finding.hint == "run `unset OMP_NUM_THREADS`"


def test_a_busy_or_slow_clocked_machine_is_told() -> None:
    assert "load 9.0" in only(replace(GOOD, load=9.0)).what
    assert "powersave" in only(replace(GOOD, governor="powersave")).what
    assert bad(replace(GOOD, governor="")) == []


def test_a_cache_that_cannot_be_written_or_is_full_only_costs_time() -> None:
    assert only(replace(GOOD, cache_writable=False)).level is Level.WARN
    assert only(replace(GOOD, cache_free_bytes=1 << 20)).level is Level.WARN


def installed(folder: Path, name: str, *, record: str | None = None, top_level: str = "") -> None:
    made = folder / f"{name}-1.0.dist-info"
    made.mkdir(parents=True)
    (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    if record is not None:
        (made / "RECORD").write_text(record, encoding="utf-8")
    if top_level:
        (made / "top_level.txt").write_text(top_level, encoding="utf-8")


def found_in(folder: Path) -> list[Distribution]:
    return list(distributions(path=[str(folder)]))


def test_packages_that_overwrite_each_other_are_found_in_their_records(tmp_path: Path) -> None:
    installed(tmp_path, "onnxruntime", record="onnxruntime/__init__.py,sha256=a,1\nonnxruntime/capi/x.py,,\n")
    installed(tmp_path, "onnxruntime_gpu", record="onnxruntime/__init__.py,sha256=b,2\n")
    installed(tmp_path, "opencv-python", record="cv2/__init__.py,,\n")
    installed(tmp_path, "opencv_python.headless", top_level="cv2\n")
    assert machine_facts.owners(found_in(tmp_path)) == {
        "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
        "cv2": ("opencv-python", "opencv-python-headless"),
    }


def test_namespaces_and_stray_test_folders_are_not_clashes(tmp_path: Path) -> None:
    record = "google/{0}/__init__.py,,\ntests/__init__.py,,\n{0}.dist-info/METADATA,,\n"
    installed(tmp_path, "one", record=record.format("one"))
    installed(tmp_path, "two", record=record.format("two"))
    assert machine_facts.owners(found_in(tmp_path)) == {}


def test_the_same_package_in_two_places_is_not_a_clash(tmp_path: Path) -> None:
    installed(tmp_path / "a", "onnx", record="onnx/__init__.py,,\n")
    installed(tmp_path / "b", "onnx", record="onnx/__init__.py,,\n")
    assert machine_facts.owners(distributions(path=[str(tmp_path / "a"), str(tmp_path / "b")])) == {}


def test_cann_is_found_where_its_script_announces_it(tmp_path: Path) -> None:
    assert machine_facts.has_cann({"ASCEND_HOME_PATH": str(tmp_path)})
    assert not machine_facts.has_cann({"ASCEND_HOME_PATH": str(tmp_path / "gone")})


def test_facts_of_this_machine_are_read_without_making_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "tilth"
    facts = machine_facts.read([CPU], [ORT], cache)
    assert not cache.parent.exists()
    assert facts.cache_writable and facts.cache_free_bytes > 0
    assert facts.processors >= 1
    assert "onnx" in facts.distributions
    assert all(isinstance(finding, Finding) for finding in diagnose(facts))


@pytest.mark.skipif(os.name != "posix", reason="a file in place of a folder")
def test_a_file_where_the_cache_should_be_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "tilth").write_text("", encoding="utf-8")
    assert not machine_facts.read([], [], tmp_path / "tilth").cache_writable
    assert not machine_facts.read([], [], tmp_path / "tilth" / "below").cache_writable
