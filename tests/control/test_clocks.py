"""A real `tilth up` whose clock is wrong: at 1970, behind 2038, and set back or forward while it runs."""

import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from plane import ROW, Up, sample, until

pytestmark = pytest.mark.timeout(240)
_BASE = "/v1/projects/default"
_HOUR_S, _DAY_S = 3600, 86400
#: A day after the second at which 32 bits end, and half a day after the first one.
_AFTER_2038, _AT_1970 = 2**31 + _DAY_S, _DAY_S // 2

# Python runs it before anything else, in the control plane and in its children.
_SITE = """
import mmap, struct, time
with open({path!r}, "rb") as file:
    _shift = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
_time_ns = time.time_ns
time.time_ns = lambda: _time_ns() + struct.unpack("<q", _shift)[0]
time.time = lambda: time.time_ns() / 1e9
"""


class Clock:
    """The clock of every Python that is started meanwhile; it goes on from where it is set."""

    def __init__(self, folder: Path) -> None:
        path = folder / "shift"
        path.write_bytes(bytes(8))
        (folder / "sitecustomize.py").write_text(_SITE.format(path=str(path)), encoding="utf-8")
        with path.open("r+b") as file:
            self._shift = mmap.mmap(file.fileno(), 8)

    def _by_ns(self, shift_ns: int) -> None:
        self._shift[:] = struct.pack("<q", shift_ns)

    def set(self, at_s: float) -> None:
        """Set it to a time since 1970."""
        self._by_ns(int((at_s - time.time()) * 1e9))

    def step(self, by_s: float) -> None:
        """Set it forward, or back."""
        self._by_ns(struct.unpack("<q", self._shift)[0] + int(by_s * 1e9))


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that is right until it is set."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return Clock(folder)


def _pages(up: Up, path: str, key: str) -> list[Any]:
    """Return one field of every row of a list, read a row at a time."""
    found, cursor = [], ""
    while True:
        page = up.get(path, params={"limit": 1} | ({"cursor": cursor} if cursor else {}))
        found += [row[key] for row in page["items"]]
        cursor = page.get("next") or ""
        if not cursor:
            return found


def _token(up: Up, name: str, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = up.made("POST", "/v1/tokens", {"name": name, **more})
    return made


def _accepted(up: Up, secret: str) -> bool:
    status = up.ask("GET", "/v1/projects", who=secret).status_code
    assert status in (200, 401)
    return status == 200


def _audit_holds(up: Up) -> None:
    """The log has every number once and in order, whatever its times, and its chain is whole."""
    checked = up.get("/v1/events/check")
    assert checked["sound"], checked
    seen: list[int] = []
    while page := up.get("/v1/events", params={"limit": 3, "after": seen[-1] if seen else 0})["items"]:
        seen += [row["seq"] for row in page]
    assert seen == list(range(1, len(seen) + 1)), seen
    assert len(seen) >= checked["events"] > 0


@pytest.mark.parametrize(("at_s", "year"), [(_AT_1970, "1970"), (_AFTER_2038, "2038")])
def test_a_control_plane_works_at_any_time(clock: Clock, tmp_path: Path, at_s: int, year: str) -> None:
    clock.set(at_s)
    with Up(tmp_path / "home") as up:
        made = up.made("POST", f"{_BASE}/models", {"name": "m"})
        assert made["created_at"].startswith(f"{year}-"), made
        assert up.push("default", "m", sample())["number"] == 1
        token = _token(up, "short", expires_in_s=600)
        assert _accepted(up, token["secret"])
        clock.step(601)
        assert not _accepted(up, token["secret"])
        up.made("POST", f"{_BASE}/endpoints", {"name": "e", "model": "m"})
        up.made("POST", f"{_BASE}/endpoints/e/deploy", {"version": "1"})
        until(lambda: (up.get(f"{_BASE}/endpoints/e")["standing"] or {}).get("state") == "ready", up.log)
        _audit_holds(up)
        assert "Traceback" not in up.log(), up.log()[-3000:]


def test_an_hour_back_changes_no_order_and_makes_nothing_twice(clock: Clock, tmp_path: Path) -> None:
    headers = {"Idempotency-Key": "once"}
    with Up(tmp_path / "home") as up:
        lasting = _token(up, "lasting", expires_in_s=2 * _HOUR_S)["secret"]
        gone = _token(up, "gone")
        up.made("DELETE", f"/v1/tokens/{gone['id']}")
        first = up.made("POST", f"{_BASE}/models", {"name": "m"}, headers=headers)
        up.push("default", "m", sample())
        clock.step(-_HOUR_S)
        # The same request is the same request.
        again = up.ask("POST", f"{_BASE}/models", {"name": "m"}, headers=headers)
        assert again.json() == first and again.headers["Idempotency-Replayed"] == "true"
        # What was revoked stays revoked, and a token that is to last lasts.
        assert not _accepted(up, gone["secret"])
        assert _accepted(up, lasting)
        ids = [_token(up, f"t{number}")["id"] for number in range(3)]
        assert up.push("default", "m", sample(2.0))["number"] == 2
        assert _pages(up, f"{_BASE}/models/m/versions", "number") == [2, 1], "versions are out of order"
        listed = _pages(up, "/v1/tokens", "id")
        assert len(listed) == len(set(listed)) and set(ids) < set(listed), "a page repeats or leaves out a token"
        _audit_holds(up)


def test_a_key_is_good_for_a_day_of_the_clock_and_then_collides_like_any_request(clock: Clock, tmp_path: Path) -> None:
    headers = {"Idempotency-Key": "once"}
    with Up(tmp_path / "home") as up:
        first = up.made("POST", f"{_BASE}/models", {"name": "m"}, headers=headers)
        clock.step(23 * _HOUR_S)
        assert up.made("POST", f"{_BASE}/models", {"name": "m"}, headers=headers) == first
        clock.step(2 * _HOUR_S)
        assert up.ask("POST", f"{_BASE}/models", {"name": "m"}, headers=headers).status_code == 409


def test_a_clock_that_lost_its_battery_takes_nothing_away(clock: Clock, tmp_path: Path) -> None:
    clock.set(_AFTER_2038)
    with Up(tmp_path / "home") as up:
        secret = up.secret
        up.made("POST", f"{_BASE}/models", {"name": "m"})
        up.push("default", "m", sample())
        # Of no version yet.
        up.upload("default", sample(2.0))
    clock.set(_AT_1970)
    with Up(tmp_path / "home", secret=secret) as up:
        assert up.get(f"{_BASE}/models/m/versions/1")["digest"] == sample().digest
        assert up.made("POST", f"{_BASE}/models/m/versions", {"digest": sample(2.0).digest})["number"] == 2
        assert _accepted(up, _token(up, "made in 1970", expires_in_s=600)["secret"])
        _audit_holds(up)
        # The network tells the time: nothing that a version needs is old enough to go.
        clock.set(_AFTER_2038 + 40 * _DAY_S)
        assert up.ask("GET", f"{_BASE}/blobs/{sample().digest}").content == sample().manifest
        assert up.made("POST", f"{_BASE}/models", {"name": "later"})["name"] == "later"
        _audit_holds(up)


def test_a_token_that_expires_by_a_leap_of_the_clock_calls_no_endpoint(clock: Clock, tmp_path: Path) -> None:
    with Up(tmp_path / "home") as up:
        up.made("POST", f"{_BASE}/models", {"name": "m"})
        up.push("default", "m", sample())
        up.made("POST", f"{_BASE}/endpoints", {"name": "e", "model": "m"})
        up.made("POST", f"{_BASE}/endpoints/e/deploy", {"version": "1"})
        secret = _token(up, "short", expires_in_s=_HOUR_S)["secret"]

        def called(status: int) -> Callable[[], bool]:
            body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": ROW}]}
            headers = {"Authorization": f"Bearer {secret}"}

            def call() -> bool:
                if not (server := up.server()):
                    return False
                url = f"http://{server['http']}/v2/models/default.e/infer"
                return httpx.post(url, json=body, headers=headers, trust_env=False).status_code == status

            return call

        until(called(200), up.log)
        clock.step(2 * _HOUR_S)
        until(called(401), up.log)
        clock.step(-2 * _HOUR_S)
        _audit_holds(up)
