"""The manifest as bytes: one form to write, and every check that needs no blob."""

import json
import re
from collections.abc import Iterator

from tilth.core.bundle import SCHEMA, Array, Manifest, Value
from tilth.core.digest import canonical_json, checked_digest
from tilth.core.errors import InvalidError, TilthError, UnsupportedError, UntrustedError
from tilth.core.record import from_json, to_json

MAX_MANIFEST_BYTES = 64 << 20
MAX_BLOBS = 100_000
MAX_TOTAL_BYTES = 64 << 30
MAX_CONTAINERS = 2_000_000
_VERSIONED = re.compile(r"tilth\.bundle/([0-9]{1,9})")


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of a manifest, which `decode_manifest` reads back.

    Raises:
        InvalidError: it would not be readable: too large, blobs missing from its list, a NaN among its figures.
    """
    try:
        data = canonical_json(to_json(manifest))
        decode_manifest(data)
    except (ValueError, UntrustedError) as error:
        why = error.why or error.what if isinstance(error, TilthError) else str(error)
        raise InvalidError("the manifest cannot be written", why=why, hint="correct the field that is named") from error
    return data


def decode_manifest(data: bytes) -> Manifest:
    """Return the manifest of `data`: verification steps 2 and 3, and sizes and shapes as far as it tells them.

    Raises:
        InvalidError: it is not a manifest.
        UnsupportedError: a later version of Tilth wrote it.
        UntrustedError: it is not canonical JSON, refers to blobs that it does not list, or contradicts itself.
    """
    # Step 2: canonical JSON of a known schema version.
    value = _parse(data)
    _check_version(value)
    manifest = from_json(Manifest, value, at="manifest")
    if not manifest.graphs:
        raise _untrusted("it holds no graph")
    # Step 3: digests are well-formed, and everything that is referred to is listed.
    _check_blobs(manifest)
    _check_references(manifest)
    return manifest


def arrays(manifest: Manifest) -> Iterator[Array]:
    """Yield every array of the golden set, in order."""
    for case in manifest.golden.cases:
        for values in (case.inputs, case.outputs):
            for value in values.values():
                yield from _flat(value)


def _flat(value: Value) -> tuple[Array, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, Array) else value


def _parse(data: bytes) -> object:
    if len(data) > MAX_MANIFEST_BYTES or data.count(b"{") + data.count(b"[") > MAX_CONTAINERS:
        raise _untrusted(f"it is beyond {MAX_MANIFEST_BYTES} bytes or {MAX_CONTAINERS:,} lists and objects")
    try:
        value = json.loads(data.decode("utf-8"))
        canonical = canonical_json(value) == data
    except RecursionError:
        raise _untrusted("it nests too deeply") from None
    except ValueError as error:
        raise _untrusted(f"it is not JSON: {str(error)[:120]}") from None
    if not canonical:
        raise _untrusted("it is not canonical JSON, so that other bytes could say the same")
    return value


def _check_version(value: object) -> None:
    schema = value.get("schema") if isinstance(value, dict) else None
    version = _VERSIONED.fullmatch(schema) if isinstance(schema, str) else None
    if schema == SCHEMA:
        return
    if version and int(version[1]) > int(SCHEMA.rpartition("/")[2]):
        raise UnsupportedError(
            f"the bundle has schema `{schema}`",
            why=f"this version of Tilth reads `{SCHEMA}`",
            hint="upgrade Tilth, or make the bundle again with this version",
        )
    raise InvalidError(
        f"the manifest has schema `{str(schema)[:80]}`",
        why=f"a bundle says `{SCHEMA}`",
        hint="name a bundle that `tilth import` made",
    )


def _check_blobs(manifest: Manifest) -> None:
    for name, size in manifest.blobs.items():
        checked_digest(name)
        if size < 0:
            raise _untrusted(f"blob {name[:12]} has {size} bytes")
    if len(manifest.blobs) > MAX_BLOBS or sum(manifest.blobs.values()) > MAX_TOTAL_BYTES:
        raise _untrusted(f"its blobs are more than {MAX_BLOBS:,} or beyond {MAX_TOTAL_BYTES} bytes together")


def _check_references(manifest: Manifest) -> None:
    for graph in manifest.graphs:
        _check_listed(manifest, graph.digest, None)
        for name, size in graph.weights.items():
            _check_listed(manifest, name, size)
    for array in arrays(manifest):
        _check_listed(manifest, array.blob, None)


def _check_listed(manifest: Manifest, name: str, size: int | None) -> None:
    listed = manifest.blobs.get(checked_digest(name))
    if listed is None or size not in (None, listed):
        raise _untrusted(f"blob {name[:12]} is {'not listed' if listed is None else 'listed with another size'}")


def _untrusted(why: str) -> UntrustedError:
    return UntrustedError(
        "the manifest is not trusted",
        why=why,
        hint="the bundle was altered or damaged; fetch it again from where it was made",
    )
