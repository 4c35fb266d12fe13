"""What makes builds slow, wrong or unsafe on a machine, decided from facts that were read before."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tilth.core.build import Refusal
from tilth.core.device import Device

Version = tuple[int, ...]

#: CVE-2025-4517: the first safe patch release of each Python series, from the CVE record of the Python project.
_SAFE_TAR: dict[Version, int] = {(3, 11): 13, (3, 12): 11, (3, 13): 4}
#: The "WAL-reset" bug, https://sqlite.org/wal.html: fixed in 3.51.3, and in these patch releases of older series.
_SAFE_WAL = (3, 51, 3)
_SAFE_WAL_BACKPORTS: dict[Version, int] = {(3, 44): 6, (3, 50): 7}
#: Modules that builds depend on: two packages that write into one of these overwrite each other's files.
_VITAL = frozenset(
    {"cv2", "lightgbm", "numpy", "onnx", "onnxruntime", "openvino", "sklearn", "torch", "triton", "xgboost"}
)
_FEATURES = {
    "int8": ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
}
#: Environment variables that change how many threads a numerical library starts, or where they run.
THREAD_VARIABLES = (
    ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_PROC_BIND", "OMP_WAIT_POLICY", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
    + ("KMP_BLOCKTIME", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TBB_NUM_THREADS")
)  # fmt: skip
_CACHE_BYTES = 1 << 30


class Level(StrEnum):
    """How much a finding matters: an error makes results wrong or impossible, a warning slower or less safe."""

    OK = "ok"
    WARN = "warn"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what was found, why it matters, and what to change."""

    level: Level
    what: str
    why: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Offer:
    """What an engine offers on a device: precisions, or every reason why it refuses the chip."""

    device: str
    target: str
    precisions: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True)
class EngineFacts:
    """An engine, its version or an empty text where it cannot be loaded, and what it offers."""

    name: str
    version: str
    offers: tuple[Offer, ...] = ()
    why: str = ""
    hint: str = ""

    @property
    def installed(self) -> bool:
        """Whether the engine can be loaded."""
        return bool(self.version)


@dataclass(frozen=True)
class Facts:
    """What `diagnose` looks at.

    `distributions` maps installed packages to versions, `owners` a top-level module to all packages that
    install it. `environment` holds the variables that are looked at. `processors` counts what the affinity of
    this process allows, before any quota. `load` is the number of running tasks over the last minute.
    `tar_filter_fixed` says that this Python carries the fix of CVE-2025-4517, whatever its version.
    """

    python: Version
    sqlite: Version
    tar_filter_fixed: bool = False
    distributions: Mapping[str, str] = field(default_factory=dict)
    owners: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    cann: bool = False
    devices: tuple[Device, ...] = ()
    engines: tuple[EngineFacts, ...] = ()
    processors: int = 1
    load: float = 0.0
    governor: str = ""
    cache: str = ""
    cache_writable: bool = True
    cache_free_bytes: int = _CACHE_BYTES


def diagnose(facts: Facts) -> list[Finding]:
    """Return what was looked at in a fixed order, each with a level; a fact that is fine gives one `ok`."""
    return [finding for check in _CHECKS for finding in check(facts)]


def _ok(what: str) -> list[Finding]:
    return [Finding(Level.OK, what)]


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _tarfile(facts: Facts) -> list[Finding]:
    name = f"Python {_dotted(facts.python)}"
    first_safe = _SAFE_TAR.get(facts.python[:2], 0)
    if facts.tar_filter_fixed or facts.python[2] >= first_safe:
        return _ok(f"{name}, tarfile's `data` filter holds")
    series = _dotted(facts.python[:2])
    return [
        Finding(
            Level.WARN,
            f"{name}: an archive can escape tarfile's `data` filter",
            "CVE-2025-4517; Tilth reads archives member by member, other programs on this Python may not",
            f"upgrade to Python {series}.{first_safe} or newer, and unpack no archive that you do not trust",
        )
    ]


def _sqlite(facts: Facts) -> list[Finding]:
    name = f"SQLite {_dotted(facts.sqlite)}"
    backport = _SAFE_WAL_BACKPORTS.get(facts.sqlite[:2])
    if facts.sqlite >= _SAFE_WAL or (backport is not None and facts.sqlite[2] >= backport):
        return _ok(name)
    return [
        Finding(
            Level.WARN,
            f"{name} can corrupt a database in WAL mode",
            "two connections that write to one file can race; fixed in 3.51.3, 3.50.7 and 3.44.6",
            "use a Python linked to SQLite 3.51.3 or newer, or keep to one connection per database file",
        )
    ]


def _clashes(facts: Facts) -> list[Finding]:
    found = []
    for module, owners in sorted(facts.owners.items()):
        if len(owners) > 1:
            names = " and ".join(f"`{name}`" for name in owners)
            level = Level.ERROR if module in _VITAL else Level.WARN
            why = "they overwrite each other's files; which one runs depends on the order of installation"
            keep = f"pip uninstall -y {' '.join(owners)}"
            found.append(Finding(level, f"{names} all install `{module}`", why, f"run `{keep}`, then install one"))
    return found or _ok("no two packages install the same module")


def _ascend(facts: Facts) -> list[Finding]:
    found = []
    autoload = facts.environment.get("TORCH_DEVICE_BACKEND_AUTOLOAD", "1")
    if "torch-npu" in facts.distributions and not facts.cann and autoload != "0":
        found.append(
            Finding(
                Level.ERROR,
                "`torch-npu` is installed and CANN is not: `import torch` fails",
                "torch loads it at import, and it needs the libraries of CANN",
                "run `export TORCH_DEVICE_BACKEND_AUTOLOAD=0`, or install CANN, or `pip uninstall torch-npu`",
            )
        )
    if "onnxruntime-cann" in facts.distributions:
        found += _onnxruntime_cann(facts)
    return found


def _onnxruntime_cann(facts: Facts) -> list[Finding]:
    found = []
    numpy = facts.distributions.get("numpy", "")
    if numpy.split(".")[0].isdigit() and int(numpy.split(".")[0]) >= 2:
        what = f"`onnxruntime-cann` with numpy {numpy}: `import onnxruntime` fails"
        found.append(Finding(Level.ERROR, what, "it is built for numpy 1", "run `pip install 'numpy<2'`"))
    if not facts.cann:
        why = "it lists its CANN provider all the same, and runs on the CPU when that fails to load"
        hint = "install CANN and source its `set_env.sh`, or replace the package by `onnxruntime`"
        found.append(Finding(Level.WARN, "`onnxruntime-cann` is installed and CANN is not", why, hint))
    return found


def _engines(facts: Facts) -> list[Finding]:
    here = [f"{engine.name} {engine.version}" for engine in facts.engines if engine.installed]
    if not here:
        hint = next((engine.hint for engine in facts.engines if engine.hint), "run `pip install onnxruntime`")
        return [Finding(Level.ERROR, "no engine can be loaded", "nothing can run a graph", hint)]
    return _ok("engines: " + ", ".join(here))


def _unused(facts: Facts) -> list[Finding]:
    found = []
    chips = {device.id: device for device in facts.devices}
    for engine in facts.engines:
        for offer in () if engine.installed else engine.offers:
            features = _features(chips[offer.device].isa, offer.precisions) if offer.device in chips else []
            if features:
                what = f"`{offer.device}` has {', '.join(features)}, and engine `{engine.name}` is not here to use it"
                why = f"the engine offers {', '.join(offer.precisions)} on this chip; without it fewer builds compete"
                found.append(Finding(Level.WARN, what, why, engine.hint or f"install `{engine.name}`"))
    return found


def _features(isa: tuple[str, ...], precisions: tuple[str, ...]) -> list[str]:
    useful = {name for precision in precisions for name in _FEATURES.get(precision, ())}
    return [name for name in isa if name in useful]


def _cores(facts: Facts) -> list[Finding]:
    cores = max((device.cores for device in facts.devices if device.target.startswith("cpu-")), default=0)
    if not cores or cores >= facts.processors:
        return _ok(f"{facts.processors} processors, no quota below that")
    return [
        Finding(
            Level.WARN,
            f"the CPU quota allows {cores} of {facts.processors} visible processors",
            "a library that starts a thread for each visible processor is stopped by the kernel again and again",
            f"run with `taskset -c 0-{cores - 1}`, or give the container whole processors",
        )
    ]


def _threads(facts: Facts) -> list[Finding]:
    held = [f"{name}={facts.environment[name]}" for name in THREAD_VARIABLES if name in facts.environment]
    if not held:
        return _ok("no thread settings in the environment")
    names = " ".join(one.partition("=")[0] for one in held)
    why = "measurements inherit it, so certificates hold for this setting and are poor for any other"
    return [Finding(Level.WARN, f"the environment sets {', '.join(held)}", why, f"run `unset {names}`")]


def _noise(facts: Facts) -> list[Finding]:
    found = []
    if facts.load > facts.processors:
        what = f"load {facts.load:.1f} on {facts.processors} processors"
        hint = "stop other work before `tilth build` and `tilth bench`"
        found.append(Finding(Level.WARN, what, "other work takes turns with measurements", hint))
    if facts.governor not in ("", "performance"):
        what, why = f"CPU governor `{facts.governor}`", "the clock changes between measurements"
        hint = "run `sudo cpupower frequency-set -g performance` while you measure"
        found.append(Finding(Level.WARN, what, why, hint))
    return found or _ok(f"load {facts.load:.1f}, quiet enough to measure")


def _cache(facts: Facts) -> list[Finding]:
    hint = "make room or get access, or set TILTH_CACHE to another folder"
    if not facts.cache_writable:
        why = "every search measures everything again"
        return [Finding(Level.WARN, f"the cache folder `{facts.cache}` cannot be written", why, hint)]
    if facts.cache_free_bytes < _CACHE_BYTES:
        what = f"{facts.cache_free_bytes >> 20} MiB free for the cache folder `{facts.cache}`"
        return [Finding(Level.WARN, what, "a search keeps its variants of the model there", hint)]
    return _ok(f"cache folder `{facts.cache}`, {facts.cache_free_bytes >> 30} GiB free")


_CHECKS: tuple[Callable[[Facts], list[Finding]], ...] = (
    (_tarfile, _sqlite, _clashes, _ascend, _engines, _unused, _cores, _threads, _noise, _cache)
)  # fmt: skip
