"""The way to a tracking server: nobody gets past the login, and nothing gets past the rules."""

import asyncio
import json
import os
import signal
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from echo_tracker import EchoTracker
from plane import Local, World, until, world

from tilth.control.change import Change
from tilth.control.records import sessions
from tilth.control.tracking.door import Door
from tilth.control.tracking.server import Order, TrackingServer

ORIGIN = "http://127.0.0.1"


class Tracked:
    """People, and a tracking server that echoes; `ask` returns what an answer is."""

    def __init__(self, folder: Path, tracker: EchoTracker | None = None) -> None:
        self.local = Local(folder / "home")
        self.world: World = world(self.local)
        self.server = TrackingServer(Order(tracker or EchoTracker(), sys.executable, ""), folder / "tracking")
        self.door = Door(self.local.plane.desk, self.server, "/console/sign-in")
        self.door.declare()
        self.task: Any = None
        self.local.runner.run(self._start())

    async def _start(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self.server.run())
        if not self.server.tracker.fails:  # type: ignore[attr-defined]
            await asyncio.wait_for(self.server.ready.wait(), 20)

    def ask(self, method: str, path: str, told: Any = None, who: str = "developer", **more: Any) -> httpx.Response:
        secret = self.world.people.get(who, who)
        return self.local.ask(method, path, told, who=secret, **more)

    def raw(self, method: str, target: bytes, who: str = "developer", body: bytes = b"") -> httpx.Response:
        """Send a path as it is: clients take `..` out of it."""

        async def send() -> httpx.Response:
            made: dict[str, Any] = {"body": b""}
            sent = [{"type": "http.request", "body": body, "more_body": False}]

            async def receive() -> Any:
                return sent.pop() if sent else await asyncio.sleep(60)

            async def take(message: Any) -> None:
                if message["type"] == "http.response.start":
                    made["status"], made["headers"] = message["status"], message["headers"]
                else:
                    made["body"] += message.get("body", b"")

            path, _, query = target.partition(b"?")
            token = self.world.people.get(who, who).encode()
            headers = [(b"host", b"127.0.0.1"), (b"authorization", b"Bearer " + token)]
            headers += [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
            scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
                     "scheme": "http", "path": unquote(path.decode()), "raw_path": path, "query_string": query,
                     "root_path": "", "headers": headers, "server": ("127.0.0.1", 80),
                     "client": ("127.0.0.1", 9)}  # fmt: skip
            await self.local.app(scope, receive, take)
            return httpx.Response(made["status"], headers=made["headers"], content=made["body"])

        return self.local.runner.run(send())

    def session(self, who: str) -> str:
        """Sign in, and return the cookie's value."""
        with self.local.database.write() as connection:
            principal = self.local.plane.desk.principal(connection, _Presenting(self.world.people[who]))
            return sessions.begin(Change(connection, principal), "test")

    def browse(self, method: str, path: str, secret: str, **headers: str) -> httpx.Response:
        """Send what a browser sends: a cookie, and headers about where the request comes from."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if method != "GET":
            sent["content-type"] = "application/json"
        cookie = {"cookie": f"tilth_session={secret}"} if secret else {}
        content = b"{}" if method != "GET" else None
        return self.local.ask(method, path, who="", headers=sent | cookie, content=content)

    def close(self) -> None:
        async def end() -> None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            await self.server.close()

        self.local.runner.run(end())
        self.local.close()


class _Presenting:
    def __init__(self, token: str) -> None:
        self.headers = httpx.Headers({"authorization": f"Bearer {token}"})
        self.headers.getlist = lambda name: self.headers.get_list(name)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def tracked() -> Iterator[Tracked]:
    # Below pytest's own folders nobody else gets anywhere, whatever the modes are further down.
    with tempfile.TemporaryDirectory(prefix="tilth-") as folder:
        Path(folder).chmod(0o755)
        made = Tracked(Path(folder))
        yield made
        made.close()


def events(tracked: Tracked, action: str) -> list[dict[str, Any]]:
    found = tracked.local.get("/v1/events?limit=200")
    return [one for one in found["items"] if one["action"] == action]


# -- who may


@pytest.mark.parametrize("path", ["", "read", "files/a", "static/x.js", "call-out/x", "never/heard/of", "ready"])
def test_nobody_unknown_gets_anywhere_and_learns_nothing_of_what_is_there(tracked: Tracked, path: str) -> None:
    for who in ("", "tilth_wrong"):
        found = tracked.ask("GET", f"/echo/{path}", who=who)
        assert found.status_code in ((401, 303) if path == "" and not who else (401,)), found.text


def test_a_viewer_reads_and_changes_nothing(tracked: Tracked) -> None:
    assert tracked.ask("GET", "/echo/read", who="viewer").status_code == 200
    assert tracked.ask("POST", "/echo/search", {}, who="viewer").status_code == 200
    assert tracked.ask("POST", "/echo/runs/1/log", {}, who="viewer").status_code == 403
    assert tracked.ask("PUT", "/echo/files/a", who="viewer", content=b"x").status_code == 403


def test_who_is_in_no_project_or_only_calls_endpoints_reads_nothing(tracked: Tracked) -> None:
    assert tracked.ask("GET", "/echo/read", who="stranger").status_code == 403
    caller = tracked.world.token(user="developer", name="calls", project="one", role="caller")
    assert tracked.ask("GET", "/echo/read", who=caller).status_code == 403


def test_a_developer_writes_and_only_administrators_delete(tracked: Tracked) -> None:
    assert tracked.ask("POST", "/echo/runs/1/log", {}).status_code == 200
    for who in ("developer", "owner"):
        assert tracked.ask("DELETE", "/echo/runs/1", who=who).status_code == 403
    assert tracked.ask("DELETE", "/echo/runs/1", who="admin").status_code == 200


def test_a_token_that_is_narrowed_to_a_viewer_does_not_write(tracked: Tracked) -> None:
    narrow = tracked.world.token(user="admin", name="narrow", project="one", role="viewer")
    assert tracked.ask("GET", "/echo/read", who=narrow).status_code == 200
    assert tracked.ask("POST", "/echo/runs/1/log", {}, who=narrow).status_code == 403
    assert tracked.ask("DELETE", "/echo/runs/1", who=narrow).status_code == 403


def test_what_is_closed_is_closed_to_administrators_and_what_is_unknown_is_not_there(tracked: Tracked) -> None:
    closed = tracked.ask("POST", "/echo/call-out/anything/below", {}, who="admin")
    assert closed.status_code == 403 and "calls other services" in closed.json()["why"]
    for method, path in (("GET", "unknown"), ("PUT", "read"), ("DELETE", "files/a"), ("GET", "read/more")):
        assert tracked.ask(method, f"/echo/{path}", who="admin").status_code == 404


# -- the same request by another door


@pytest.mark.parametrize(
    "target",
    [
        b"/echo/files/../../etc/passwd",
        b"/echo/files/..%2f..%2fetc",
        b"/echo/files/%2e%2e/secret",
        b"/echo/files/a/%2e%2e",
        b"/echo/files/%252e%252e/secret",
        b"/echo/files/a%5c..%5cb",
        b"/echo/files/%2fetc/passwd",
        b"/echo/files//etc/passwd",
        b"/echo/files/a%00b",
        b"/echo/files/a%0ab",
        b"/echo/files/..;x/secret",
        b"/echo/files/%c0%ae%c0%ae/x",
        b"/echo/read?path=../../etc",
        b"/echo/read?path=/etc/passwd",
        b"/echo/read?path=a&path=..%2f..",
        b"/echo/read?artifact_path=%252e%252e%252f",
        b"/echo/read?file_uri=a/../b",
    ],
)
def test_a_name_that_leaves_its_folder_does_not_pass(tracked: Tracked, target: bytes) -> None:
    found = tracked.raw("GET", target, who="admin")
    assert found.status_code in (400, 403, 404), found.content
    assert b'"target"' not in found.content


@pytest.mark.parametrize(
    "target", [b"/ECHO/read", b"/echo/READ", b"/echo/read/", b"/echo/read;x", b"/echo/read%20", b"/echo/./read"]
)
def test_another_spelling_of_a_path_is_another_path(tracked: Tracked, target: bytes) -> None:
    assert tracked.raw("GET", target, who="admin").status_code in (400, 404)


def test_a_path_passes_as_it_was_read_with_what_is_not_plain_encoded(tracked: Tracked) -> None:
    found = tracked.raw("GET", b"/%65cho/files/a%20b/%c3%a4%3f%23.txt?x=%41&path=sub/x")
    assert found.json()["target"] == "/files/a%20b/%C3%A4%3F%23.txt?x=%41&path=sub/x"


# -- bodies


def test_a_body_is_passed_on_as_it_was_understood(tracked: Tracked) -> None:
    twice = b'{"place": "/etc", "place": "inside", "n": NaN}'
    found = tracked.raw("POST", b"/echo/runs/1/log", body=twice).json()
    assert found["body"] == '{"place":"inside","n":NaN}'


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"place": "/etc/passwd"}', 422),
        ('{"place": "/etc"}'.encode("utf-16"), 400),
        (b"{", 400),
        (b"[" * 200_000, 400),
        (b'"' + b"x" * (5 << 20) + b'"', 413),
    ],
)
def test_a_body_that_means_another_place_or_nothing_does_not_pass(tracked: Tracked, body: bytes, status: int) -> None:
    assert tracked.raw("POST", b"/echo/runs/1/log", body=body).status_code == status


@pytest.mark.parametrize(
    "headers", [{"content-type": "text/plain"}, {"content-type": "application/json", "content-encoding": "gzip"}, {}]
)
def test_json_that_does_not_say_so_is_not_read(tracked: Tracked, headers: dict[str, str]) -> None:
    assert tracked.ask("POST", "/echo/runs/1/log", headers=headers, content=b"{}").status_code in (415, 422)


def test_a_get_with_a_body_does_not_pass(tracked: Tracked) -> None:
    assert tracked.ask("GET", "/echo/read", {"place": "/etc"}).status_code == 422


# -- headers


def test_no_credential_and_no_word_about_the_way_reaches_the_server(tracked: Tracked) -> None:
    headers = {
        "Cookie": "tilth_session=s", "X-Forwarded-For": "9.9.9.9", "Forwarded": "for=9", "X-Forwarded-Host": "evil",
        "Proxy-Authorization": "Basic x", "X-Api-Key": "k", "X-Echo-Run": "7", "Connection": "X-Echo-Run",
        "Transfer-Encoding": "chunked", "Upgrade": "h2c", "Referer": "http://127.0.0.1/console?x",
    }  # fmt: skip
    headers.pop("Transfer-Encoding")
    found = dict(tracked.ask("GET", "/echo/read", headers=headers).json()["headers"])
    assert {name.lower() for name in found} <= {"host", "accept", "user-agent", "x-echo-run"}
    assert found["host"] == "localhost" and found["x-echo-run"] == "7"


def test_an_answer_cannot_weaken_what_this_origin_promises(tracked: Tracked) -> None:
    found = tracked.ask("GET", "/echo/evil")
    assert "set-cookie" not in found.headers and "server" not in found.headers
    assert not [name for name in found.headers if name.startswith("access-control")]
    assert found.headers["x-frame-options"] == "DENY" and "sandbox" in found.headers["content-security-policy"]
    assert found.headers["cache-control"] == "no-store" and "*" not in found.headers["content-security-policy"]


def test_what_was_uploaded_is_a_download_that_runs_nothing(tracked: Tracked) -> None:
    found = tracked.ask("GET", "/echo/files/page.html")
    assert found.headers["content-type"] == "text/html" and found.headers["content-disposition"] == "attachment"
    assert "sandbox" in found.headers["content-security-policy"]
    assert found.headers["x-content-type-options"] == "nosniff"


def test_a_page_may_do_what_its_tracker_says_below_its_own_prefix(tracked: Tracked) -> None:
    found = tracked.ask("GET", "/echo/")
    assert found.headers["content-security-policy"] == f"default-src 'none'; script-src {ORIGIN}/echo/static/"
    assert tracked.ask("GET", "/echo/static/a.js").headers["cache-control"].startswith("private")


@pytest.mark.parametrize(
    ("to", "where"),
    [("/x/y?z=1", "/echo/x/y?z=1"), ("http://localhost/x", "/echo/x"), ("//evil.example/x", ""),
     ("https://evil.example/", ""), ("x", ""), ("/%5cevil", "/echo/%5cevil"), ("javascript:alert(1)", "")],
)  # fmt: skip
def test_a_redirect_stays_below_the_prefix_or_is_none(tracked: Tracked, to: str, where: str) -> None:
    found = tracked.ask("GET", f"/echo/redirect?to={to}")
    assert (found.status_code, found.headers.get("location", "")) == ((302, where) if where else (503, ""))


# -- browsers


def test_a_session_opens_pages_and_what_they_ask_for(tracked: Tracked) -> None:
    secret = tracked.session("developer")
    assert tracked.browse("GET", "/echo/", secret, sec_fetch_site="none").status_code == 200
    assert tracked.browse("GET", "/echo/read", secret, sec_fetch_site="same-origin").status_code == 200
    said = tracked.browse("POST", "/echo/runs/1/log", secret, origin=ORIGIN, sec_fetch_site="same-origin")
    assert said.status_code == 200, said.text


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none", ""])
def test_a_page_of_another_site_reads_nothing_with_a_session(tracked: Tracked, site: str) -> None:
    secret = tracked.session("developer")
    headers = {"sec_fetch_site": site} if site else {}
    assert tracked.browse("GET", "/echo/read", secret, **headers).status_code == 403
    assert tracked.browse("GET", "/echo/files/a", secret, **headers).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [{}, {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "https://127.0.0.1"},
     {"origin": ORIGIN, "sec_fetch_site": "cross-site"}, {"sec_fetch_site": "same-origin"}],
)  # fmt: skip
def test_a_page_of_another_site_changes_nothing_with_a_session(tracked: Tracked, headers: dict[str, str]) -> None:
    secret = tracked.session("developer")
    assert tracked.browse("POST", "/echo/runs/1/log", secret, **headers).status_code == 403


def test_a_session_is_worth_what_its_user_may_do(tracked: Tracked) -> None:
    secret = tracked.session("viewer")
    headers = {"origin": ORIGIN, "sec_fetch_site": "same-origin"}
    assert tracked.browse("POST", "/echo/search", secret, **headers).status_code == 200
    assert tracked.browse("POST", "/echo/runs/1/log", secret, **headers).status_code == 403
    assert tracked.browse("GET", "/echo/read", "wrong", sec_fetch_site="same-origin").status_code == 401


def test_who_is_not_signed_in_is_sent_to_the_sign_in_from_pages_alone(tracked: Tracked) -> None:
    found = tracked.ask("GET", "/echo/", who="")
    assert found.status_code == 303 and found.headers["location"] == "/console/sign-in?next=/echo/"
    assert tracked.ask("GET", "/echo/read", who="").status_code == 401
    assert tracked.ask("GET", "/echo", who="").headers["location"] == "/echo/"


# -- the audit log


def test_every_change_leaves_an_event_and_thousands_of_them_two(tracked: Tracked) -> None:
    for _ in range(30):
        assert tracked.ask("POST", "/echo/runs/77/log", {"loss": 1}).status_code == 200
    told = [one for one in events(tracked, "tracking.write") if one["subject"].endswith("runs/77")]
    assert [one["details"] for one in told] == [{"method": "POST", "path": "runs/77/log"}]
    tracked.local.runner.run(tracked.door.ledger.tell())
    told = [one for one in events(tracked, "tracking.write") if one["subject"].endswith("runs/77")]
    assert told[1]["details"] == {"calls": 29, "paths": {"POST runs/77/log": 29}}
    assert told[0]["actor"] == "user:developer" and "loss" not in json.dumps(told)


def test_what_is_refused_leaves_no_event(tracked: Tracked) -> None:
    before = tracked.local.events()
    tracked.ask("POST", "/echo/runs/88/log", {"place": "/etc"})
    tracked.ask("POST", "/echo/runs/88/log", {}, who="viewer")
    tracked.ask("DELETE", "/echo/runs/88")
    assert tracked.local.events() == before


def test_a_deletion_is_told_apart_from_a_write(tracked: Tracked) -> None:
    tracked.ask("DELETE", "/echo/runs/99", who="admin")
    assert events(tracked, "tracking.rule")[-1]["subject"] == "tracking/echo/runs/99"


# -- the process


def test_the_socket_is_for_its_owner_alone(tracked: Tracked) -> None:
    folder = tracked.server.log.parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "socket").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as somebody else")
def test_another_user_of_this_machine_cannot_connect(tracked: Tracked) -> None:
    folder = tracked.server.log.parent
    assert _connects_as(65534, folder / "socket") == "PermissionError"
    # The same question where folder and socket are open to all, so that the refusal above is known to be theirs.
    for path, mode in ((folder, 0o755), (folder / "socket", 0o666)):
        path.chmod(mode)
    try:
        assert _connects_as(65534, folder / "socket") == ""
    finally:
        (folder / "socket").chmod(0o600)
        assert _connects_as(65534, folder / "socket") == "PermissionError"
        folder.chmod(0o700)


def _connects_as(user: int, path: Path) -> str:
    """Return the name of the error that a user gets who connects to a socket, empty for none."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            socket.socket(socket.AF_UNIX).connect(str(path))
        except BaseException as error:
            os.write(writing, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with open(reading, encoding="ascii") as said:
        return said.read()


def test_a_server_that_is_killed_is_started_again_and_answers(tracked: Tracked) -> None:
    before = tracked.server.pid

    async def killed() -> None:
        os.kill(before, signal.SIGKILL)
        while tracked.server.pid in (0, before) or not tracked.server.ready.is_set():
            await asyncio.sleep(0.02)

    tracked.local.runner.run(asyncio.wait_for(killed(), 30))
    assert tracked.ask("GET", "/echo/read").json()["pid"] == tracked.server.pid != before
    assert tracked.server.memory_bytes > 1 << 20


def test_a_request_that_kills_the_server_gets_an_answer(tracked: Tracked) -> None:
    found = tracked.ask("GET", "/echo/crash", who="admin")
    assert found.status_code == 503 and found.headers["retry-after"]

    async def back() -> None:
        await tracked.server.ready.wait()

    tracked.local.runner.run(asyncio.wait_for(back(), 30))


def test_the_server_gets_nothing_of_the_environment_but_what_it_was_given(tracked: Tracked) -> None:
    assert set(tracked.ask("GET", "/echo/read").json()["environment"]) <= {"A", "LC_CTYPE"}


def test_a_server_that_does_not_start_is_a_503_that_says_why_and_nothing_else_waits(tmp_path: Path) -> None:
    tracker = EchoTracker()
    tracker.fails = True
    made = Tracked(tmp_path, tracker)
    try:
        began = time.monotonic()
        assert made.local.get("/v1/me", who=made.world.people["developer"])
        assert time.monotonic() - began < 2
        found = made.ask("GET", "/echo/read")
        assert found.status_code == 503 and "no room" in found.json()["why"]
    finally:
        made.close()


def test_a_home_with_a_path_too_long_for_a_socket_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    made = Tracked(folder)
    try:
        assert made.ask("GET", "/echo/read").status_code == 200
    finally:
        made.close()
    assert not (folder / "tracking/socket").exists()


def test_a_socket_that_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "tracking").mkdir(mode=0o700)
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "tracking/socket"))
    left.close()
    made = Tracked(tmp_path)
    try:
        until(lambda: made.ask("GET", "/echo/read").status_code == 200)
    finally:
        made.close()
