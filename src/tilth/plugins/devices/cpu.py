"""The CPU of this machine: its class, its instruction sets, and the share of it that this process may use."""

import os
import platform
from collections.abc import Callable
from pathlib import Path

from tilth.core.device import Device

_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}

_X86_ISA = (
    ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16")
    + ("amx_tile", "amx_bf16", "amx_int8")
)  # fmt: skip
_ARM_ISA = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme")

# MIDR implementer and part, as /proc/cpuinfo prints them. Numbers: Linux arch/arm64/include/asm/cputype.h and
# util-linux lscpu. A part that is not here keeps its number: a guessed name would end up in certificates.
_IMPLEMENTERS = {0x41: "Arm", 0x46: "Fujitsu", 0x48: "HiSilicon", 0x51: "Qualcomm", 0x61: "Apple", 0xC0: "Ampere"}
_PARTS = {
    (0x48, 0xD01): "Kunpeng 920 (TaiShan v110)",
    (0x48, 0xD02): "TaiShan v120",
    (0x41, 0xD03): "Cortex-A53",
    (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse N1",
    (0x41, 0xD40): "Neoverse V1",
    (0x41, 0xD49): "Neoverse N2",
    (0x41, 0xD4F): "Neoverse V2",
    (0x46, 0x001): "A64FX",
}


class CpuProber:
    """Finds one device `cpu:0`: all the processors that this process may use.

    `root` is where `proc` and `sys` are read from, `machine` the architecture's name as the system says it.
    What cannot be read is left out of the device; nothing is raised.
    """

    name = "cpu"

    def __init__(self, root: Path = Path("/"), machine: str = "") -> None:
        self._root = root
        self._machine = machine or platform.machine()

    def devices(self) -> list[Device]:
        """Return the CPU."""
        architecture = normalised(self._machine)
        cpuinfo = self._text("proc/cpuinfo")
        groups = cgroup_paths(self._text("proc/self/cgroup"))
        return [
            Device(
                id="cpu:0",
                target=f"cpu-{architecture}",
                name=model_name(cpuinfo) or platform.processor() or architecture,
                cores=usable_cores(_visible_cores(), cpu_quotas(groups, self._text)),
                memory_bytes=memory_limit(total_memory(self._text("proc/meminfo")), groups, self._text),
                isa=isa(cpuinfo),
                driver=f"{platform.system()} {kernel_version(platform.release())}".strip(),
            )
        ]

    def _text(self, path: str) -> str:
        try:
            return (self._root / path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


def normalised(machine: str) -> str:
    """Return an architecture by the name that targets use: `x86_64`, `aarch64`, or what the system says."""
    lowered = machine.lower()
    return _ARCHITECTURES.get(lowered, lowered) or "unknown"


def kernel_version(release: str) -> str:
    """Return the first two numbers of a kernel release: `6.1` of `6.1.0-18-amd64`."""
    return ".".join(release.split("-")[0].split(".")[:2])


def model_name(cpuinfo: str) -> str:
    """Return the name of the CPU in the text of `/proc/cpuinfo`, or nothing when it does not say.

    x86 says a name; Arm says numbers for implementer and part, of which every kind present is named once.
    """
    fields = _fields(cpuinfo)
    if names := fields.get("model name"):
        return " ".join(names[0].split())
    pairs = zip(fields.get("cpu implementer", []), fields.get("cpu part", []), strict=False)
    return " + ".join(dict.fromkeys(_arm_name(_number(maker), _number(part)) for maker, part in pairs))


def isa(cpuinfo: str) -> tuple[str, ...]:
    """Return the instruction-set extensions that engines make use of and that every core has, by their Linux names."""
    fields = _fields(cpuinfo)
    per_core = [set(line.split()) for line in fields.get("flags", []) + fields.get("features", [])]
    shared = set.intersection(*per_core) if per_core else set()
    return tuple(name for name in _X86_ISA + _ARM_ISA if name in shared)


def total_memory(meminfo: str) -> int:
    """Return the machine's memory in bytes from the text of `/proc/meminfo`; 0 when it does not say."""
    words = (_fields(meminfo).get("memtotal") or [""])[0].split()
    return int(words[0]) * 1024 if words and words[0].isdigit() else 0


def cgroup_paths(text: str) -> dict[str, list[str]]:
    """Return the folders that limit this process, innermost first, by controller, from `/proc/self/cgroup`.

    The controller of cgroup v2 is the empty name. Every ancestor is listed, because the tightest limit counts;
    in a container the path may be the host's, so the last folder is always the mount's own.
    """
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            for controller in parts[1].split(","):
                found[controller] = _ancestors(parts[2])
    return found


def cpu_quotas(groups: dict[str, list[str]], text: Callable[[str], str]) -> list[float]:
    """Return every CPU quota that holds, in processors. `text` reads a file below the root, empty if absent."""
    found = [_v2_quota(text(f"sys/fs/cgroup{path}cpu.max")) for path in groups.get("", [])]
    for path in groups.get("cpu", []):
        folder = f"sys/fs/cgroup/cpu{path}"
        found.append(_ratio(text(f"{folder}cpu.cfs_quota_us"), text(f"{folder}cpu.cfs_period_us")))
    return [quota for quota in found if quota > 0]


def usable_cores(visible: int, quotas: list[float]) -> int:
    """Return how many threads are worth starting: the visible processors, or the tightest quota rounded up."""
    return max(1, min([visible, *(-int(-quota // 1) for quota in quotas)]))


def memory_limit(total: int, groups: dict[str, list[str]], text: Callable[[str], str]) -> int:
    """Return the memory that this process may use, in bytes: the machine's or the tightest limit set on a group."""
    texts = [text(f"sys/fs/cgroup{path}memory.max") for path in groups.get("", [])]
    texts += [text(f"sys/fs/cgroup/memory{path}memory.limit_in_bytes") for path in groups.get("memory", [])]
    limits = [_number(found.strip()) for found in texts]
    return min([size for size in (total, *limits) if size > 0], default=0)


def _visible_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _fields(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip().lower(), []).append(value.strip())
    return found


def _arm_name(implementer: int, part: int) -> str:
    maker = _IMPLEMENTERS.get(implementer, f"implementer {implementer:#x}")
    return f"{maker} {_PARTS.get((implementer, part), f'part {part:#x}')}"


def _ancestors(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part and part != ".."]
    return ["/" + "".join(f"{part}/" for part in parts[:depth]) for depth in range(len(parts), -1, -1)]


def _v2_quota(text: str) -> float:
    words = text.split()
    return _ratio(*words) if len(words) == 2 else 0.0


def _ratio(quota: str, period: str) -> float:
    wanted, per = _number(quota.strip()), _number(period.strip())
    return wanted / per if wanted > 0 and per > 0 else 0.0


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        return 0
