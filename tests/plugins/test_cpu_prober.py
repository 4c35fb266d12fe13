"""The CPU prober on texts of machines that are not here."""

from pathlib import Path

import pytest

from tilth.plugins.devices import cpu
from tilth.plugins.devices.cpu import CpuProber

# Field names, implementer, part and features as a Kunpeng 920 prints them
# (source: https://github.com/hrw/arm-socs-table/issues/86); the processor numbers are invented.
KUNPENG_CORE = """\
processor\t: {number}
BogoMIPS\t: 200.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma dcpop asimddp asimdfhm
CPU implementer\t: 0x48
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: {part}
CPU revision\t: 0
"""  # noqa: E501
KUNPENG = "\n".join(KUNPENG_CORE.format(number=number, part="0xd01") for number in range(4))

XEON = """\
processor\t: 0
model name\t: Example(R)  Processor @ 2.00GHz
flags\t\t: fpu sse2 avx2 fma f16c avx512f avx512_vnni avx512_bf16 amx_tile amx_int8 amx_bf16

processor\t: 1
model name\t: Example(R)  Processor @ 2.00GHz
flags\t\t: fpu sse2 avx2 fma f16c avx512f avx512_vnni avx512_bf16 amx_tile amx_int8 amx_bf16
"""


def machine(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_a_kunpeng_is_named_by_its_part_and_not_offered_what_it_lacks(tmp_path: Path) -> None:
    root = machine(tmp_path, proc__cpuinfo=KUNPENG, proc__meminfo="MemTotal:       1024 kB\n")
    (device,) = CpuProber(root, "aarch64").devices()
    assert device.target == "cpu-aarch64"
    assert device.name == "HiSilicon Kunpeng 920 (TaiShan v110)"
    assert device.isa == ("asimd", "asimdhp", "asimddp")
    assert device.memory_bytes == 1 << 20


def test_an_unknown_part_keeps_its_number_and_gets_no_guessed_name() -> None:
    text = KUNPENG_CORE.format(number=0, part="0xd99")
    assert cpu.model_name(text) == "HiSilicon part 0xd99"
    assert cpu.model_name(text.replace("0x48", "0x7f")) == "implementer 0x7f part 0xd99"


def test_cores_of_two_kinds_are_both_named() -> None:
    text = KUNPENG_CORE.format(number=0, part="0xd01") + KUNPENG_CORE.format(number=1, part="0xd02")
    assert cpu.model_name(text) == "HiSilicon Kunpeng 920 (TaiShan v110) + HiSilicon TaiShan v120"


def test_an_extension_that_one_core_lacks_is_not_listed() -> None:
    assert "avx512_bf16" in cpu.isa(XEON)
    assert "avx512_bf16" not in cpu.isa(XEON.replace(" avx512_bf16", "", 1))


def test_an_x86_name_is_one_line_of_single_spaces() -> None:
    assert cpu.model_name(XEON) == "Example(R) Processor @ 2.00GHz"


@pytest.mark.parametrize(
    ("machine_name", "target"),
    [("x86_64", "cpu-x86_64"), ("AMD64", "cpu-x86_64"), ("arm64", "cpu-aarch64"), ("riscv64", "cpu-riscv64")],
)
def test_one_class_of_chip_has_one_target(tmp_path: Path, machine_name: str, target: str) -> None:
    assert CpuProber(tmp_path, machine_name).devices()[0].target == target


def test_a_system_without_proc_still_has_a_cpu(tmp_path: Path) -> None:
    (device,) = CpuProber(tmp_path / "nowhere", "arm64").devices()
    assert device.cores >= 1
    assert device.name
    assert device.isa == ()
    assert device.memory_bytes == 0


def test_limits_of_a_container_count_not_the_machines(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        proc__cpuinfo=XEON,
        proc__meminfo="MemTotal:  67108864 kB\n",
        proc__self__cgroup="0::/team/job\n",
        sys__fs__cgroup__team__job__cpu_DOT_max="max 100000\n",
        sys__fs__cgroup__team__cpu_DOT_max="50000 100000\n",
        sys__fs__cgroup__team__job__memory_DOT_max="4294967296\n",
        sys__fs__cgroup__team__memory_DOT_max="max\n",
    )
    (device,) = CpuProber(root, "x86_64").devices()
    assert device.cores == 1
    assert device.memory_bytes == 4 << 30


def test_a_container_that_shows_the_hosts_path_is_still_limited(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        proc__meminfo="MemTotal:  67108864 kB\n",
        proc__self__cgroup="0::/../../kubepods/pod1/abc\n",
        sys__fs__cgroup__memory_DOT_max="1073741824\n",
    )
    assert CpuProber(root, "x86_64").devices()[0].memory_bytes == 1 << 30


def test_limits_of_the_first_cgroup_version_count_too(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        proc__meminfo="MemTotal:  67108864 kB\n",
        proc__self__cgroup="4:memory:/job\n3:cpu,cpuacct:/job\n",
        sys__fs__cgroup__cpu__job__cpu_DOT_cfs_quota_us="100000\n",
        sys__fs__cgroup__cpu__job__cpu_DOT_cfs_period_us="100000\n",
        sys__fs__cgroup__memory__job__memory_DOT_limit_in_bytes="2147483648\n",
        sys__fs__cgroup__memory__memory_DOT_limit_in_bytes="9223372036854771712\n",
    )
    (device,) = CpuProber(root, "x86_64").devices()
    assert device.cores == 1
    assert device.memory_bytes == 2 << 30


@pytest.mark.parametrize(
    ("quotas", "cores"), [([], 8), ([2.0], 2), ([2.5], 3), ([0.1], 1), ([16.0], 8), ([6.0, 3.2], 4)]
)
def test_a_quota_is_rounded_up_and_never_to_none(quotas: list[float], cores: int) -> None:
    assert cpu.usable_cores(8, quotas) == cores


@pytest.mark.parametrize(
    "text", ["", "garbage", ":::", "MemTotal: lots", "\x00\x00", "CPU part: 0xzz\nCPU implementer: ?"]
)
def test_garbage_is_read_without_an_error(tmp_path: Path, text: str) -> None:
    root = machine(tmp_path, proc__cpuinfo=text, proc__meminfo=text, proc__self__cgroup=text)
    (device,) = CpuProber(root, "aarch64").devices()
    assert device.memory_bytes == 0
    assert device.isa == ()


def test_this_machine_is_described_completely() -> None:
    (device,) = CpuProber().devices()
    assert device.id == "cpu:0"
    assert device.memory_bytes > 1 << 28
    assert device.driver.split()[0] == __import__("platform").system()
    assert not device.simulated
