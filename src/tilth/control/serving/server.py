"""The server of endpoints: a `tilth serve` of its own, started, watched and told over its management port.

It outlives this process: one that was killed is followed by one that finds the server again by what is written beside
its models, and requests are answered all the while.
"""

import asyncio
import contextlib
import json
import os
import signal
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from tilth.control.serving.machine import Seen
from tilth.control.traffic import Shares
from tilth.core.errors import UnavailableError

_START_S, _LOAD_S, _ASK_S, _END_S = 30.0, 300.0, 10.0, 15.0
_LOG_BYTES = 16 << 20


@dataclass(frozen=True)
class Running:
    """A server that was started: its process, told apart by when it was started, and its addresses.

    `tls` says that all of them speak TLS, the one for managing it among them.
    """

    pid: int
    started: int
    http: str
    grpc: str
    manage: str
    tls: bool = False


@dataclass(frozen=True)
class Place:
    """Where a server has what it needs: a folder for its files, and the addresses to listen on."""

    folder: Path
    models: Path
    tokens: Path
    http: str
    grpc: str
    more: tuple[str, ...] = ()


class Server:
    """A handle on the server; `command` starts a `tilth` of this installation, `secret` is what manages it."""

    def __init__(self, place: Place, command: Sequence[str], secret: str) -> None:
        self._place, self._command = place, command
        self._record = place.folder / "server.json"
        self.running: Running | None = None
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {secret}"}, timeout=_ASK_S, trust_env=False, verify=_on_loopback()
        )

    def find(self) -> bool:
        """Return whether a server of an earlier process is there; it is taken over then."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            found = Running(**json.loads(self._record.read_text(encoding="utf-8")))
            if _started(found.pid) == found.started:
                self.running = found
                return True
        return False

    @property
    def alive(self) -> bool:
        """Whether its process is there."""
        return self.running is not None and _started(self.running.pid) == self.running.started

    async def start(self, policies: Mapping[str, Shares]) -> None:
        """Start a server that serves what `policies` says from its first request on.

        Raises:
            UnavailableError: it does not start; the end of its log says why.
        """
        log = self._place.folder / "server.log"
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as errors:
            child = await asyncio.create_subprocess_exec(
                *self._command,
                *self._arguments(policies),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        assert child.stdout is not None  # noqa: S101 - asked for above
        try:
            line = await asyncio.wait_for(child.stdout.readline(), _START_S)
            told = json.loads(line)
            self.running = Running(
                child.pid,
                _started(child.pid),
                told["http"],
                told.get("grpc", ""),
                told["manage"],
                "--tls-cert" in self._place.more,
            )
        except (TimeoutError, ValueError, KeyError):
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            raise UnavailableError(
                "the server of endpoints does not start", why=_last_line(log), hint=f"its log is `{log}`"
            ) from None
        beside = self._record.with_suffix(".new")
        beside.write_text(json.dumps(asdict(self.running)), encoding="utf-8")
        beside.replace(self._record)

    def _arguments(self, policies: Mapping[str, Shares]) -> list[str]:
        place = self._place
        made = ["serve", "--models", str(place.models), "--http", place.http, "--grpc", place.grpc, "--json"]
        made += ["--manage", "127.0.0.1:0", "--tokens", str(place.tokens), *place.more]
        for name, shares in policies.items():
            made += ["--policy", f"{name}={','.join(shares.versions)}"] if shares.versions else []
            for flag, told in (("--split", shares.traffic), ("--shadow", shares.shadow)):
                if told:
                    made += [flag, f"{name}={','.join(f'{one}:{share:g}' for one, share in told.items())}"]
        return made

    async def stop(self) -> None:
        """End the server, when the requests that it has begun are answered."""
        running, self.running = self.running, None
        self._record.unlink(missing_ok=True)
        if running is None or _started(running.pid) != running.started:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, signal.SIGTERM)
        until = time.monotonic() + _END_S
        while _started(running.pid) == running.started and time.monotonic() < until:
            await asyncio.sleep(0.05)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(running.pid, signal.SIGKILL)

    async def close(self) -> None:
        """Let go of the server without ending it."""
        await self._client.aclose()

    async def load(self, name: str, shares: Shares) -> None:
        """Tell it which versions of a name answer and which look on; returns when they do.

        Raises:
            UnavailableError: it does not answer.
            LoadError: it answers that it cannot.
        """
        config = {"versions": shares.versions, "split": dict(shares.traffic)}
        config |= {"shadow": {one: share / 100 for one, share in shares.shadow.items()}}
        await self._ask(f"/v2/repository/models/{name}/load", {"parameters": {"config": json.dumps(config)}})

    async def unload(self, name: str) -> None:
        """Tell it to serve nothing of a name; raises as `load`."""
        with contextlib.suppress(LoadError):
            await self._ask(f"/v2/repository/models/{name}/unload", {})

    async def look(self) -> dict[str, dict[str, Seen]]:
        """Return what it says of every version, by name.

        Raises:
            UnavailableError: it does not answer.
        """
        made: dict[str, dict[str, Seen]] = {}
        for row in await self._ask("/v2/repository/index", {}):
            state = str(row["state"]).lower()
            made.setdefault(row["name"], {})[row["version"]] = Seen(state, str(row["reason"])[:2000])
        return made

    async def metrics(self) -> str:
        """Return its counters in Prometheus' text form.

        Raises:
            UnavailableError: it does not answer.
        """
        return (await self._sent("GET", "/metrics", None, _ASK_S)).text

    async def _ask(self, path: str, body: Mapping[str, Any]) -> Any:
        answer = await self._sent("POST", path, body, _LOAD_S)
        return answer.json() if answer.content else None

    async def _sent(self, method: str, path: str, body: Mapping[str, Any] | None, limit_s: float) -> httpx.Response:
        if self.running is None:
            raise UnavailableError("the server of endpoints does not run")
        try:
            url = f"{'https' if self.running.tls else 'http'}://{self.running.manage}{path}"
            answer = await self._client.request(method, url, json=body, timeout=limit_s)
        except httpx.HTTPError as error:
            raise UnavailableError(
                "the server of endpoints does not answer", why=f"{type(error).__name__}: {error}"[:300]
            ) from None
        if answer.status_code >= 400:
            raise LoadError(_told(answer))
        return answer


class LoadError(Exception):
    """The server answered that it cannot do what it was told; the text says why."""


def _on_loopback() -> ssl.SSLContext:
    """Return TLS with a server of this machine, whose certificate names the host that others know it by."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Nor may a certificate that has expired, or was renewed in place, keep a server from being told what to do.
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


def _told(answer: httpx.Response) -> str:
    try:
        told = answer.json()
        # `error` is the whole error for people, in lines; the first of them is what, and `why` stands apart, too.
        what = str(told.get("error", "")).partition("\n")[0]
        return f"{what}: {told.get('why', '')}".strip(": ")[:2000]
    except ValueError:
        return f"status {answer.status_code}"


def _started(pid: int) -> int:
    """Return when a process was started, in ticks since boot; 0 when there is none, or it is only waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in ("Z", "X") else int(fields[19])


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            return " ".join(file.read().decode(errors="replace").strip().splitlines()[-3:])[:500]
    return ""
