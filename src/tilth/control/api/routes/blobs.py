"""Blobs: uploaded piece by piece, verified before they count, and downloaded."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Iterator

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from tilth.client import parcel
from tilth.client.shapes.blob import Check, Kept, Missing, NewUpload, Upload
from tilth.control.api.desk import Call, Desk
from tilth.control.change import Change
from tilth.control.intake.inspection import RESTORE, damaged, verified
from tilth.control.intake.receive import Landing
from tilth.control.records import blobs
from tilth.control.row_id import new_id
from tilth.core.digest import checked_digest
from tilth.core.errors import InvalidError, MissingError, UnavailableError
from tilth.ports.blob_store import BlobStore

_PROJECT = "/v1/projects/{project}"
_BYTES = "application/octet-stream"
_RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{0,15})")
_NUMBER = re.compile(r"[0-9]{1,15}")
_SILENT_S = 30.0
_SMALL_BYTES = 1 << 20


def declare(desk: Desk, store: BlobStore, landing: Landing) -> None:
    """Declare the routes; bytes land in `landing` and are kept in `store`."""
    intake = _Intake(desk, store, landing)
    _looking(desk, store)
    _pieces(desk, landing, intake)

    @desk.stream("PUT", f"{_PROJECT}/blobs", "version.push", summary="Upload several small blobs in one request")
    async def put_blobs(call: Call, request: Request) -> Response:
        """Upload blobs of 8 MiB together at most: for each a line `DIGEST SIZE`, then its bytes."""
        return await intake.put_all(call, request)

    @desk.stream("PUT", f"{_PROJECT}/blobs/{{digest}}", "version.push", summary="Upload a blob in one piece")
    async def put_blob(call: Call, request: Request, digest: str) -> Response:
        return await intake.put(call, request, checked_digest(digest))

    @desk.stream(
        "PATCH", f"{_PROJECT}/uploads/{{upload}}", "version.push", summary="Send bytes from `Upload-Offset` on"
    )
    async def send_upload(call: Call, request: Request, upload: str) -> Response:
        return await intake.send(call, request, upload)


def _looking(desk: Desk, store: BlobStore) -> None:
    @desk.read(f"{_PROJECT}/blobs/{{digest}}/size", "model.read", summary="Ask whether a project has a blob")
    def get_blob_size(call: Call, digest: str) -> Upload:
        size_bytes = _size(call, digest)
        return Upload(id="", digest=digest, size_bytes=size_bytes, offset=size_bytes, done=True)

    @desk.stream("GET", f"{_PROJECT}/blobs/{{digest}}", "model.read", summary="Download a blob", kind=_BYTES)
    async def get_blob(call: Call, request: Request, digest: str) -> Response:
        def find() -> int:
            with desk.database.read() as connection:
                return _size(Call(connection, call.principal, call.project), digest)

        size_bytes = await asyncio.to_thread(find)
        return await asyncio.to_thread(_download, store, digest, size_bytes, request)


def _pieces(desk: Desk, landing: Landing, intake: "_Intake") -> None:
    @desk.read(
        f"{_PROJECT}/blobs/missing", "version.push", summary="Ask which blobs have to be uploaded", method="POST"
    )
    def find_missing(call: Call, body: Check) -> Missing:
        have = blobs.sizes(call.connection, call.project["id"], body.digests)
        return Missing(missing=[one for one in dict.fromkeys(body.digests) if one not in have])

    @desk.change("POST", f"{_PROJECT}/uploads", "version.push", summary="Begin an upload, or find the one begun")
    def begin_upload(call: Call, body: NewUpload) -> Upload:
        have = blobs.size(call.connection, call.project["id"], body.digest)
        if have is not None:
            return Upload(id="", digest=body.digest, size_bytes=have, offset=have, done=True)
        landing.check_room(body.size_bytes)
        upload_id = blobs.begin(call.change, call.project, body.digest, body.size_bytes)
        return intake.told(upload_id, body.digest, body.size_bytes)

    @desk.read(f"{_PROJECT}/uploads/{{upload}}", "version.push", summary="Ask how much of an upload is here")
    def get_upload(call: Call, upload: str) -> Upload:
        row = blobs.upload(call.connection, call.project["id"], upload)
        return intake.told(upload, row["digest"], row["size_bytes"])

    @desk.change("DELETE", f"{_PROJECT}/uploads/{{upload}}", "version.push", summary="Give up an upload", match=False)
    def give_up_upload(call: Call, upload: str) -> None:
        with landing.held(upload):
            blobs.give_up(call.change, call.project, upload)
            landing.remove(upload)


class _Intake:
    """Bytes on their way into the store."""

    def __init__(self, desk: Desk, store: BlobStore, landing: Landing) -> None:
        self._desk, self._store, self._landing = desk, store, landing

    def told(self, upload_id: str, digest: str, size_bytes: int) -> Upload:
        offset = self._landing.offset(upload_id)
        return Upload(id=upload_id, digest=digest, size_bytes=size_bytes, offset=offset, done=False)

    async def put(self, call: Call, request: Request, digest: str) -> Response:
        size_bytes = _length(request)
        self._landing.check_room(size_bytes)
        name = f"put-{new_id()}"
        with self._landing.held(name):
            try:
                if not await self._landing.take(name, digest, size_bytes, 0, _stream(request)):
                    raise InvalidError("the body ended too early", why="it is shorter than `Content-Length` says")
                return await asyncio.to_thread(self._kept, call, request, name, digest, size_bytes)
            except ClientDisconnect:
                return Response(status_code=204)
            finally:
                self._landing.remove(name)

    async def put_all(self, call: Call, request: Request) -> Response:
        size_bytes = _length(request)
        if size_bytes > parcel.MOST_BYTES:
            raise InvalidError(
                "the blobs are too large for one request",
                why=f"they have {size_bytes} bytes, and {parcel.MOST_BYTES} are taken",
                hint="send fewer, or each for itself",
            )
        self._landing.check_room(size_bytes)
        try:
            body = b"".join([block async for block in _stream(request)])
        except ClientDisconnect:
            return Response(status_code=204)
        if len(body) != size_bytes:
            raise InvalidError("the body is not as long as `Content-Length` says")
        return await asyncio.to_thread(self._kept_all, call, request, body)

    def _kept_all(self, call: Call, request: Request, body: bytes) -> Response:
        sizes = {}
        self._desk.admit(request, "version.push")
        for digest, data in parcel.unpacked(body).items():
            name, sizes[digest] = f"put-{new_id()}", len(data)
            with self._landing.held(name):
                try:
                    self._landing.write(name, data)
                    self._store.adopt(self._landing.path(name), digest)
                finally:
                    self._landing.remove(name)

        def keep(change: Change) -> None:
            for digest, size in sizes.items():
                blobs.keep(change, call.project, digest, size, self._store.size(digest) == size)

        self._desk.changed(call.principal, keep)
        kept = Kept(kept=list(sizes))
        return Response(kept.model_dump_json(), media_type="application/json", headers={"Cache-Control": "no-store"})

    async def send(self, call: Call, request: Request, upload: str) -> Response:
        sent = request.headers.get("upload-offset", "")
        if not _NUMBER.fullmatch(sent):
            raise InvalidError("`Upload-Offset` is missing", hint="send the offset at which the body begins")
        digest, size_bytes = await asyncio.to_thread(self._find, call, upload)
        with self._landing.held(upload):
            try:
                whole = await self._landing.take(upload, digest, size_bytes, int(sent), _stream(request))
            except ClientDisconnect:
                # What came stays; nobody is there to be told.
                return Response(status_code=204)
            if whole:
                return await asyncio.to_thread(self._kept, call, request, upload, digest, size_bytes)
        return _answer(self.told(upload, digest, size_bytes))

    def _find(self, call: Call, upload: str) -> tuple[str, int]:
        with self._desk.database.read() as connection:
            row = blobs.upload(connection, call.project["id"], upload)
        return row["digest"], row["size_bytes"]

    def _kept(self, call: Call, request: Request, name: str, digest: str, size_bytes: int) -> Response:
        """Move verified bytes into the store, then note them, in this order: what is noted is there."""
        # Sending may have taken hours: whoever has lost its token or its role meanwhile has nothing kept.
        self._desk.admit(request, "version.push")
        self._store.adopt(self._landing.path(name), digest)

        def keep(change: Change) -> None:
            blobs.keep(change, call.project, digest, size_bytes, self._store.size(digest) == size_bytes)

        self._desk.changed(call.principal, keep)
        return _answer(Upload(id="", digest=digest, size_bytes=size_bytes, offset=size_bytes, done=True))


def _size(call: Call, digest: str) -> int:
    found = blobs.size(call.connection, call.project["id"], checked_digest(digest))
    if found is None:
        raise MissingError(f"blob {digest[:12]} is not in this project", hint="upload it")
    return found


def _answer(made: Upload) -> Response:
    headers = {"Cache-Control": "no-store", "Upload-Offset": str(made.offset)}
    return Response(made.model_dump_json(), media_type="application/json", headers=headers)


async def _stream(request: Request) -> AsyncIterator[bytes]:
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(_SILENT_S):
                block = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            # A sender that went away without a word must not keep others from going on with its upload.
            raise UnavailableError("the upload has stopped", why=f"nothing came for {_SILENT_S:g} s") from None
        if block:
            yield block


def _length(request: Request) -> int:
    sent = request.headers.get("content-length", "")
    if not _NUMBER.fullmatch(sent):
        raise InvalidError("`Content-Length` is missing", hint="send it, or begin an upload")
    return int(sent)


def _download(store: BlobStore, digest: str, size_bytes: int, request: Request) -> Response:
    """Answer with a blob or a part of it.

    A small one is hashed before the first byte goes out, a large one on its way; of a part, its reader can tell.

    Raises:
        UntrustedError: it is damaged.
        MissingError: it is not there any more.
    """
    here = store.size(digest)
    if here is None:
        raise MissingError(f"blob {digest[:12]} is lost", why=f"`{store.place}` does not hold it", hint=RESTORE)
    if here != size_bytes:
        raise damaged(store, digest)
    headers = {"ETag": f'"{digest}"', "Cache-Control": "private, immutable", "Accept-Ranges": "bytes"}
    headers |= {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}
    # One range is taken; a list of them is as good as none (RFC 9110, section 14.2).
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    if found is None:
        if size_bytes <= _SMALL_BYTES:
            return Response(verified(store, digest), headers=headers, media_type=_BYTES)
        headers["Content-Length"] = str(size_bytes)
        return StreamingResponse(_whole(store, digest), headers=headers, media_type=_BYTES)
    start = int(found[1])
    end = min(int(found[2]) + 1 if found[2] else size_bytes, size_bytes)
    if start >= size_bytes or end <= start:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{size_bytes}"})
    headers |= {"Content-Range": f"bytes {start}-{end - 1}/{size_bytes}", "Content-Length": str(end - start)}
    return StreamingResponse(store.read(digest, start, end), 206, headers=headers, media_type=_BYTES)


def _whole(store: BlobStore, digest: str) -> Iterator[bytes]:
    """Yield a blob; the last block only when all of it hashes to the digest, so that a damaged one ends too early."""
    state, held = hashlib.sha256(), b""
    for block in store.read(digest):
        state.update(block)
        if held:
            yield held
        held = block
    if state.hexdigest() != digest:
        raise damaged(store, digest)
    yield held
