"""Read from this machine what `doctor.diagnose` decides on; nothing that cannot be read is an error."""

import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

from tilth.bridge.doctor import THREAD_VARIABLES, EngineFacts, Facts, Version
from tilth.core.device import Device

_VARIABLES = (*THREAD_VARIABLES, "TORCH_DEVICE_BACKEND_AUTOLOAD")
_CANN_FOLDERS = ("/usr/local/Ascend/cann", "/usr/local/Ascend/ascend-toolkit/latest")
#: A line of RECORD that makes a top-level module: a package with an `__init__`, or one file.
_TOP_LEVEL = re.compile(r"^\"?([A-Za-z_]\w*)(?:/__init__)?\.py\"?,", re.MULTILINE)
#: Folders that many packages install by mistake; nobody imports them.
_STRAY = frozenset({"benchmarks", "docs", "examples", "scripts", "setup", "test", "tests", "tools"})


def read(devices: Sequence[Device], engines: Sequence[EngineFacts], cache: Path) -> Facts:
    """Return the facts of this process and its machine.

    `cache` is the folder that searches are kept in; it need not exist, and it is not made.
    """
    installed = list(distributions())
    return Facts(
        python=sys.version_info[:3],
        sqlite=_numbers(sqlite3.sqlite_version),
        # The fix brought this name with it, also to the releases that a distribution patched by itself.
        tar_filter_fixed=hasattr(os.path, "ALLOW_MISSING"),
        distributions={normalised(d.name): d.version for d in installed if d.name},
        owners=owners(installed),
        environment={name: os.environ[name] for name in _VARIABLES if name in os.environ},
        cann=has_cann(os.environ),
        devices=tuple(devices),
        engines=tuple(engines),
        processors=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        governor=_text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")).strip(),
        cache=str(cache),
        cache_writable=_writable(cache),
        cache_free_bytes=_free_bytes(cache),
    )


def normalised(name: str) -> str:
    """Return a package's name in the one form in which names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def owners(installed: Iterable[Distribution]) -> dict[str, tuple[str, ...]]:
    """Return the packages that install each top-level module, for modules that more than one installs.

    A namespace has no `__init__` and may have many owners, so it is not listed.
    """
    found: dict[str, set[str]] = {}
    for one in installed:
        if one.name:
            for module in _top_level(one):
                found.setdefault(module, set()).add(normalised(one.name))
    return {module: tuple(sorted(names)) for module, names in found.items() if len(names) > 1}


def has_cann(environment: Mapping[str, str]) -> bool:
    """Return whether the libraries of CANN are where its own scripts put or announce them."""
    announced = (environment.get(name, "") for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"))
    return any(folder and Path(folder).is_dir() for folder in (*announced, *_CANN_FOLDERS))


def _top_level(one: Distribution) -> set[str]:
    record = one.read_text("RECORD")
    if record is not None:
        return set(_TOP_LEVEL.findall(record)) - _STRAY
    if one.read_text("namespace_packages.txt"):
        return set()
    return set((one.read_text("top_level.txt") or "").split()) - _STRAY


def _numbers(version: str) -> Version:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _existing(folder: Path) -> Path:
    return next((one for one in (folder, *folder.parents) if one.exists()), Path("/"))


def _writable(folder: Path) -> bool:
    nearest = _existing(folder)
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def _free_bytes(folder: Path) -> int:
    try:
        return shutil.disk_usage(_existing(folder)).free
    except OSError:
        return 0
