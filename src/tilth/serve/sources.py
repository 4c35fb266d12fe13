"""Which bundles there are to serve: `NAME=PATH` on the command line, and folders of models and versions."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tilth.core.errors import InvalidError, MissingError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MOST_MODELS = 256

#: Paths by model and version.
Models = dict[str, dict[str, Path]]


def named(texts: Sequence[str]) -> Models:
    """Return the models that `PATH`, `NAME=PATH` and `NAME:VERSION=PATH` name.

    Without a name it is that of the file; without a version, bundles of one name are numbered as they come.

    Raises:
        InvalidError: a name or version has no sound form, or is there twice.
        MissingError: there is nothing at a path.
    """
    found: Models = {}
    for text in texts:
        left, equals, right = text.partition("=")
        path = Path(right if equals else left)
        name, _, version = left.partition(":") if equals else (path.name.removesuffix(".tilth"), "", "")
        if not path.exists():
            raise MissingError(f"there is no bundle at `{path}`", hint="make one with `tilth import` and `tilth build`")
        versions = found.setdefault(checked_name(name), {})
        version = checked_name(version) if version else str(len(versions) + 1)
        if version in versions:
            raise InvalidError(f"`{name}` has version `{version}` twice", hint="give each bundle a version of its own")
        versions[version] = path.resolve()
    return _limited(found)


def in_folder(folder: Path) -> Models:
    """Return the models of a folder: `NAME.tilth`, `NAME/VERSION.tilth` or `NAME/VERSION/*.tilth`.

    Entries that are no sound names, links and hidden ones are left out.

    Raises:
        MissingError: there is no such folder.
    """
    if not folder.is_dir():
        raise MissingError(f"there is no folder `{folder}`", hint="name a folder of bundles with `--models`")
    found: Models = {}
    for entry in sorted(folder.iterdir()):
        name = entry.name.removesuffix(".tilth")
        if not _NAME.fullmatch(name) or entry.is_symlink():
            continue
        if entry.name.endswith(".tilth") or (entry / "manifest.json").exists():
            found.setdefault(name, {})["1"] = entry.resolve()
        elif entry.is_dir():
            versions = _versions(entry)
            if versions:
                found[name] = versions
    return _limited(found)


def _versions(folder: Path) -> dict[str, Path]:
    found = {}
    for entry in sorted(folder.iterdir()):
        version = entry.name.removesuffix(".tilth")
        if entry.is_symlink() or not _NAME.fullmatch(version):
            continue
        if entry.name.endswith(".tilth"):
            found[version] = entry.resolve()
        elif entry.is_dir():
            inside = [one for one in sorted(entry.glob("*.tilth")) if not one.is_symlink()]
            if inside:
                found[version] = inside[0].resolve()
    return found


def merged(*many: Models) -> Models:
    """Return all models; the later ones win where a version is there twice."""
    found: Models = {}
    for models in many:
        for name, versions in models.items():
            found[name] = {**found.get(name, {}), **versions}
    return _limited(found)


def checked_name(name: str) -> str:
    """Return a model's or version's name.

    Raises:
        InvalidError: it is not 1 to 128 letters, digits, dots, dashes and underscores.
    """
    if not _NAME.fullmatch(name):
        raise InvalidError(
            f"`{name[:80]}` is no name of a model or version",
            why="names have 1 to 128 letters, digits, `.`, `-` and `_`, and begin with a letter or digit",
            hint="name it: NAME=PATH",
        )
    return name


def weights(texts: Sequence[str], flag: str) -> dict[str, dict[str, float]]:
    """Return shares by model and version from texts like `fraud=1:90,2:10` (percent signs allowed).

    Raises:
        InvalidError: a text has another form.
    """
    found: dict[str, dict[str, float]] = {}
    for text in texts:
        name, _, rest = text.partition("=")
        for part in rest.split(","):
            version, _, share = part.partition(":")
            try:
                value = float(share.removesuffix("%"))
            except ValueError:
                value = -1.0
            if not name or not version or not 0 <= value <= 1e6:
                raise InvalidError(f"`{flag} {text[:80]}` is not understood", hint=f"{flag} NAME=VERSION:SHARE,...")
            found.setdefault(checked_name(name), {})[checked_name(version)] = value
    return found


def policies(texts: Sequence[str]) -> Mapping[str, str | tuple[str, ...]]:
    """Return version policies by model from texts like `fraud=all`, `fraud=latest` or `fraud=1,3`.

    Raises:
        InvalidError: a text has another form.
    """
    found: dict[str, str | tuple[str, ...]] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        if not equals or not rest:
            raise InvalidError(f"`--policy {text[:80]}` is not understood", hint="--policy NAME=latest|all|1,3")
        wanted = rest if rest in ("latest", "all") else tuple(checked_name(part) for part in rest.split(","))
        found[checked_name(name)] = wanted
    return found


def _limited(models: Models) -> Models:
    count = sum(map(len, models.values()))
    if count > _MOST_MODELS:
        raise InvalidError(f"there are {count} versions to serve", why=f"one server takes {_MOST_MODELS}")
    return models
