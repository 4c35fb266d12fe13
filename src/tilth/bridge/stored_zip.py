"""A ZIP file whose members are stored in one piece each, read strictly and without trust.

Field layouts and numbers are those of PKWARE's APPNOTE 6.3.10, sections 4.3 to 4.5.
"""

import os
import re
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tilth.core.blob import read_all
from tilth.core.errors import UntrustedError

MAX_DIRECTORY_BYTES = 32 << 20
_NAME = re.compile(rb"manifest\.json|blobs/[0-9a-f]{64}")

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64_AT = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")

_UTF8_FLAG = 0x0800
_FULL = 0xFFFFFFFF
_UNIX = 3


@dataclass(frozen=True)
class Member:
    """A member by name; its header starts at `header`, its `size` bytes at `offset`, `crc` is their CRC-32."""

    name: str
    header: int
    offset: int
    size: int
    crc: int


def read_members(handle: int, *, limit: int) -> dict[str, Member]:
    """Return the members of an open ZIP file by name, at most `limit`.

    The file is members, directory and end record, with nothing before, between or after. The bytes of members are
    not looked at: whoever reads a blob knows its digest.

    Raises:
        UntrustedError: it is anything but members that are stored, plain, not encrypted, and well named.
    """
    size = os.fstat(handle).st_size
    count, start, length = _find_directory(handle, size)
    if count > limit or length > MAX_DIRECTORY_BYTES:
        raise _bad(f"it has {count} members, more than the limit of {limit}, or an oversized directory")
    members: dict[str, Member] = {}
    expected = 0
    for entry in _entries(read_all(handle, start, length, "the bundle"), count):
        member = _locate(handle, entry)
        if member.name in members:
            raise _bad(f"`{member.name}` appears twice")
        members[member.name] = member
    for member in sorted(members.values(), key=lambda item: item.header):
        if member.header != expected:
            raise _bad(f"`{member.name}` overlaps another member or leaves a gap")
        expected = member.offset + member.size
    if expected != start:
        raise _bad("there are bytes that belong to no member")
    return members


@dataclass(frozen=True)
class _Entry:
    name: bytes
    size: int
    header: int
    crc: int


def _find_directory(handle: int, size: int) -> tuple[int, int, int]:
    """Return the number of members, and where the directory starts and how long it is."""
    at = size - _END.size
    sign, disk, disk_start, here, count, length, start, comment = _record(handle, _END, at)
    if sign != b"PK\5\6" or comment or disk or disk_start or here != count:
        raise _bad("it does not end in the end record of a ZIP file, it was cut short, or has bytes appended")
    if count == 0xFFFF or length == _FULL or start == _FULL:
        at, count, length, start = _find_directory64(handle, at)
    if start + length != at:
        raise _bad("its directory is not where the end record says")
    return count, start, length


def _find_directory64(handle: int, end: int) -> tuple[int, int, int, int]:
    sign, disk, at, disks = _record(handle, _END64_AT, end - _END64_AT.size)
    if sign != b"PK\6\7" or disk or disks != 1 or at != end - _END64_AT.size - _END64.size:
        raise _bad("its Zip64 locator is wrong")
    sign, size, _, _, disk, disk_start, here, count, length, start = _record(handle, _END64, at)
    if sign != b"PK\6\6" or size != _END64.size - 12 or disk or disk_start or here != count:
        raise _bad("its Zip64 end record is wrong")
    return at, count, length, start


def _entries(directory: bytes, count: int) -> Iterable[_Entry]:
    at = 0
    for _ in range(count):
        if at + _CENTRAL.size > len(directory):
            raise _bad("its directory ends early")
        fields = _CENTRAL.unpack_from(directory, at)
        sign, made_by, _, flags, method, _, _, crc, packed, size, name_n, extra_n, note_n, disk, _, mode, header = (
            fields
        )
        at += _CENTRAL.size
        name, extra = directory[at : at + name_n], directory[at + name_n : at + name_n + extra_n]
        at += name_n + extra_n + note_n
        if sign != b"PK\1\2" or disk:
            raise _bad("its directory is damaged")
        _check_plain(name, flags, method)
        _check_mode(name, made_by >> 8, mode)
        size, packed, header = _wide(extra, (size, packed, header))
        if size != packed:
            raise _bad("a stored member has two sizes")
        yield _Entry(name, size, header, crc)
    if at != len(directory):
        raise _bad("its directory has bytes left over")


def _locate(handle: int, entry: _Entry) -> Member:
    record = _record(handle, _LOCAL, entry.header)
    sign, _, flags, method, _, _, crc, packed, size, name_n, extra_n = record
    rest = read_all(handle, entry.header + _LOCAL.size, name_n + extra_n, "the bundle")
    _check_plain(rest[:name_n], flags, method)
    size, packed = _wide(rest[name_n:], (size, packed))
    if (sign, rest[:name_n], size, packed, crc) != (b"PK\3\4", entry.name, entry.size, entry.size, entry.crc):
        raise _bad("a member's own header contradicts the directory")
    offset = entry.header + _LOCAL.size + len(rest)
    return Member(entry.name.decode("ascii"), entry.header, offset, entry.size, entry.crc)


def _check_plain(name: bytes, flags: int, method: int) -> None:
    shown = ascii(name[:80].decode("latin-1"))
    if not _NAME.fullmatch(name):
        raise _bad(f"it has a member {shown}, which is neither `manifest.json` nor a blob")
    if flags & 1:
        raise _bad(f"{shown} is encrypted")
    if flags & ~_UTF8_FLAG or method:
        raise _bad(f"{shown} is compressed or streamed; members are stored")


def _check_mode(name: bytes, system: int, mode: int) -> None:
    kind = stat.S_IFMT(mode >> 16) if system == _UNIX else 0
    if kind not in (0, stat.S_IFREG) or mode & 0x10:
        raise _bad(f"{ascii(name[:80].decode('latin-1'))} is a link, a folder or a device")


def _wide(extra: bytes, values: tuple[int, ...]) -> tuple[int, ...]:
    """Return `values` with those that are 2^32-1 taken from the Zip64 extra field, in its order."""
    at, field = 0, b""
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, at)
        if tag == 1:
            field = extra[at + 4 : at + 4 + length]
        at += 4 + length
    wide = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
    result = tuple(next(wide, value) if value == _FULL else value for value in values)
    if max(result) >= 1 << 63:
        raise _bad("a size or position is beyond 2^63")
    return result


def _record(handle: int, form: struct.Struct, at: int) -> tuple[Any, ...]:
    if at < 0:
        raise _bad("it is too short for a ZIP file")
    return form.unpack(read_all(handle, at, form.size, "the bundle"))


def _bad(why: str) -> UntrustedError:
    return UntrustedError(
        "the file is not a bundle, or was altered",
        why=why,
        hint="fetch it again; a bundle is packed without compression by `tilth import`",
    )
