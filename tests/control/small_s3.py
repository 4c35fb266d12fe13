"""A small S3 over real HTTP on loopback: objects, ranges, listing in pages, uploads in parts, and no room at will."""

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

KEY, SECRET = "tilth-test-key", "tilth-test-secret"
_PAGE = 7


class SmallS3(ThreadingHTTPServer):
    """Buckets in memory. With `is_full` nothing can be put; `objects` may be spoiled by a test."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.is_full = False
        self.turn = threading.Lock()

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables with which a client finds it."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_port}",
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SmallS3

    def _name(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/")

    def _query(self) -> dict[str, str]:
        found = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        return {name: values[0] for name, values in found.items()}

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

    def _let_in(self) -> bool:
        """Refuse who does not sign with the key; that the signature is right is not checked."""
        if f"Credential={KEY}/" in self.headers.get("Authorization", ""):
            return True
        self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        return False

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        query = self._query()
        if not self._let_in():
            return
        if "list-type" in query:
            self._list(query)
            return
        data = self.server.objects.get(self._name())
        if data is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        tags = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Last_Modified": "Fri, 27 Nov 2026 08:00:00 GMT"}
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if self.command == "HEAD":
            self._answer(200, Content_Length=str(len(data)), **tags)
        elif found is None:
            self._answer(200, data, **tags)
        elif int(found[1]) >= len(data):
            self._answer(416, b"<Error><Code>InvalidRange</Code></Error>")
        else:
            end = min(int(found[2]) + 1 if found[2] else len(data), len(data))
            part = data[int(found[1]) : end]
            self._answer(206, part, Content_Range=f"bytes {found[1]}-{end - 1}/{len(data)}", **tags)

    def _list(self, query: dict[str, str]) -> None:
        bucket, prefix = self._name().rstrip("/"), query.get("prefix", "")
        start = f"{bucket}/{prefix}"
        with self.server.turn:
            names = sorted(name for name in self.server.objects if name.startswith(start))
            names = [name for name in names if name > f"{bucket}/{query.get('continuation-token', '')}"]
            rows = "".join(
                f"<Contents><Key>{escape(name.partition('/')[2])}</Key><Size>{len(self.server.objects[name])}</Size>"
                "<LastModified>2026-11-27T08:00:00.000Z</LastModified><ETag>x</ETag></Contents>"
                for name in names[:_PAGE]
            )
        more = len(names) > _PAGE
        told = f"<IsTruncated>{str(more).lower()}</IsTruncated>{rows}"
        if more:
            last = names[_PAGE - 1].partition("/")[2]
            told += f"<NextContinuationToken>{escape(last)}</NextContinuationToken>"
        self._answer(200, f"<ListBucketResult>{told}</ListBucketResult>".encode())

    def do_PUT(self) -> None:
        body, query = self._body(), self._query()
        if not self._let_in():
            return
        if self.server.is_full:
            self._answer(507, b"<Error><Code>InsufficientStorage</Code></Error>")
            return
        with self.server.turn:
            if "partNumber" in query:
                self.server.parts[query["uploadId"]][int(query["partNumber"])] = body
            else:
                self.server.objects[self._name()] = body
        self._answer(200, ETag=f'"{hashlib.sha256(body).hexdigest()}"')

    def do_POST(self) -> None:
        body, query = self._body().decode(), self._query()
        if not self._let_in():
            return
        with self.server.turn:
            if "delete" in query:
                keys = re.findall(r"<Key>([^<]+)</Key>", body)
                for key in keys:
                    self.server.objects.pop(f"{self._name().rstrip('/')}/{key}", None)
                rows = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
                told = f"<DeleteResult>{rows}</DeleteResult>"
            elif "uploads" in query:
                upload = f"u{len(self.server.parts)}"
                self.server.parts[upload] = {}
                told = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            else:
                parts = self.server.parts.pop(query["uploadId"])
                self.server.objects[self._name()] = b"".join(parts[number] for number in sorted(parts))
                self.server.parts[query["uploadId"]] = {}
                told = "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
        self._answer(200, told.encode())

    def do_DELETE(self) -> None:
        if not self._let_in():
            return
        with self.server.turn:
            if "uploadId" in (query := self._query()):
                self.server.parts[query["uploadId"]] = {}
            else:
                self.server.objects.pop(self._name(), None)
        self._answer(204)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def small_s3() -> Iterator[SmallS3]:
    """Serve one on a free port, until the end."""
    server = SmallS3()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
