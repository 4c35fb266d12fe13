"""A tracker whose server answers with what reached it: what the door lets through can be seen, without MLflow."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tilth.core.errors import UnsupportedError
from tilth.ports.tracker import Ask, Ground, Read, Rule, Start, TrackedModel

_SERVER = """
import hashlib, http.server, json, os, socket, sys
order = json.loads(sys.argv[1])

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def address_string(self): return "-"
    def log_message(self, *_): pass
    def answer(self):
        left, whole = int(self.headers.get("content-length") or 0), hashlib.sha256()
        first = b""
        while left > 0 and (block := self.rfile.read(min(left, 65536))):
            whole.update(block); left -= len(block); first = first or block
        status, more = 200, {}
        if self.path == "/crash": os._exit(3)
        if self.path.startswith("/redirect"):
            status, more = 302, {"Location": self.path.partition("to=")[2]}
        if self.path == "/evil":
            more = {"Set-Cookie": "tilth_session=x", "Access-Control-Allow-Origin": "*", "Server": "echo",
                    "Content-Security-Policy": "default-src *", "X-Frame-Options": "ALLOWALL"}
        told = {"method": self.command, "target": self.path, "headers": self.headers.items(), "pid": os.getpid(),
                "sha256": whole.hexdigest(), "body": first[:4096].decode("latin-1"), "environment": dict(os.environ)}
        data = json.dumps(told).encode()
        self.send_response(status)
        for name, value in more.items(): self.send_header(name, value)
        self.send_header("Content-Type", "text/html" if self.path.startswith("/files/") else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_UNIX
    def server_bind(self): pass
    def server_activate(self): pass

made = Server(("", 0), Handler, bind_and_activate=False)
made.socket.close()
made.socket = socket.socket(fileno=order["socket"])
print("echo is up", flush=True)
made.serve_forever()
"""


class EchoTracker:
    """Implements the port; `fails` makes its server end at once."""

    name, ready = "echo", "ready"
    headers = ("x-echo-run",)
    variables = ("ECHO_URI", "ECHO_TOKEN")
    fails = False

    def version(self, python: str) -> str:
        return "1"

    def start(self, ground: Ground) -> Start:
        code = "import sys; sys.exit('there is no room')" if self.fails else _SERVER
        return Start((sys.executable, "-I", "-c", code, json.dumps({"socket": ground.socket})), {"A": "b"})

    def rules(self) -> Sequence[Rule]:
        return (
            Rule("GET", "", "read", "page"),
            Rule("GET", "ready", "read"),
            Rule("GET", "read", "read"),
            Rule("GET", "evil", "read"),
            Rule("GET", "redirect", "read"),
            Rule("GET", "static/**", "read", "asset"),
            Rule("GET", "files/**", "read", "file"),
            Rule("PUT", "files/**", "write", "bytes"),
            Rule("POST", "search", "read"),
            Rule("POST", "runs/*/log", "write"),
            Rule("DELETE", "runs/*", "rule"),
            Rule("GET", "crash", "rule"),
            Rule("*", "call-out/**", "closed", why="it calls other services"),
        )

    def page_policy(self, base: str) -> str:
        return f"default-src 'none'; script-src {base}static/"

    def refusal(self, path: str, body: Any) -> str:
        return "`place` is elsewhere" if isinstance(body, dict) and str(body.get("place", "")).startswith("/") else ""

    def run_of(self, path: str, query: Mapping[str, str], body: Any) -> str:
        parts = path.split("/")
        return "/".join(parts[:2]) if parts[0] == "runs" else ""

    def named(self, text: str) -> tuple[str, str] | None:
        return None

    def find(self, ask: Ask, read: Read, run: str, path: str) -> TrackedModel:
        raise UnsupportedError("an echo has no models")
