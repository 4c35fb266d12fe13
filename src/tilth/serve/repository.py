"""What a worker knows of the model repository, and what it asks the supervisor to change in it."""

import base64
import binascii
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from tilth.core.errors import InvalidError, UnsupportedError
from tilth.serve.logs import Log
from tilth.serve.metrics import Unit, prometheus, read_all, statistics
from tilth.serve.service import Service

_SETTINGS = ("versions", "split", "shadow")
_LEVELS = ("debug", "info", "warning", "error")
#: Triton's log settings: which lines there are, and at verbose level 1 one for every request.
_LOG_LEVELS = (("info", "log_info"), ("warning", "log_warning"), ("error", "log_error"))
_LOG_SETTINGS = (*(name for _, name in _LOG_LEVELS), "log_verbose_level")
_LOG_FIXED = {"log_file": "", "log_format": "json"}


class Repository:
    """The models of this server, as the supervisor last told."""

    def __init__(self, service: Service, log: Log, runtime: Path) -> None:
        self._service, self._log, self._runtime = service, log, runtime
        self._models: Mapping[str, Any] = {}
        self._memory: Mapping[int, float] = {}

    def follow(self, models: Mapping[str, Any], memory: Mapping[str, float]) -> None:
        """Take over what the supervisor tells of models and their memory."""
        self._models = models
        self._memory = {int(slot): size for slot, size in memory.items()}

    def index(self, only_ready: bool) -> list[dict[str, str]]:
        """Return every version that is known: `name`, `version`, `state` and `reason`, as the protocol has them."""
        rows = [
            {"name": name, "version": version, "state": told["state"], "reason": told["reason"]}
            for name, model in sorted(self._models.items())
            for version, told in model["versions"].items()
        ]
        return [row for row in rows if row["state"] == "READY" or not only_ready]

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Load a model, or load it anew; bundles may come with the call.

        `config` is a JSON object with our own settings, `file:VERSION/NAME.tilth` a bundle (in base64 over REST).

        Raises:
            TilthError: it cannot be loaded; what was served before goes on.
        """
        settings: dict[str, Any] = {}
        files: dict[str, str] = {}
        for key, value in parameters.items():
            if key == "config":
                settings = _config(value)
            elif key.startswith("file:"):
                files[_version(key)] = str(self._kept(key, value))
            else:
                raise UnsupportedError(
                    f"the parameter `{key[:80]}` is not known", why="known: config, file:VERSION/NAME"
                )
        await self._service.ask("load", {"model": name, "settings": settings, "files": files})

    async def unload(self, name: str) -> None:
        """Unload a model.

        Raises:
            MissingError: there is none of this name.
        """
        await self._service.ask("unload", {"model": name})

    def _kept(self, key: str, value: Any) -> Path:
        """Write a bundle that came with a call where only this server can read it."""
        if isinstance(value, str):
            try:
                value = base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                raise InvalidError(f"`{key[:80]}` is not base64") from None
        if not isinstance(value, bytes):
            raise InvalidError(f"`{key[:80]}` holds no bytes")
        path = self._runtime / f"upload-{secrets.token_hex(8)}.tilth"
        path.touch(0o600)
        path.write_bytes(value)
        return path

    def statistics(self, name: str = "", version: str = "") -> dict[str, Any]:
        """Return the statistics of all models, of one, or of one version.

        Raises:
            MissingError: there is no such model or version.
        """
        if name:
            self._service.unit(name, version)
        units = [
            one for one in self._units() if (not name or one.model == name) and (not version or one.version == version)
        ]
        return statistics(units, read_all(self._meters()))

    def prometheus(self) -> str:
        """Return the metrics of all workers in the Prometheus text form."""
        return prometheus(self._units(), read_all(self._meters()), {"memory_bytes": self._memory})

    def _meters(self) -> list[Path]:
        return sorted(self._runtime.glob("meter-*"))

    def _units(self) -> list[Unit]:
        found = []
        for name, model in self._models.items():
            for version, told in model["versions"].items():
                if told["facts"]:
                    facts = told["facts"]
                    share = float(facts.get("fallback_share", 0.0))
                    found.append(Unit(told["slot"], name, version, facts["build"], share))
        return found

    async def logging(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Change the log settings that are named, in every worker, and return all of them.

        Raises:
            InvalidError: a setting has no such value.
            UnsupportedError: there is no such setting.
        """
        for name, value in asked.items():
            if name not in _LOG_SETTINGS:
                raise UnsupportedError(
                    f"the log setting `{name[:80]}` cannot be changed", why="known: " + ", ".join(_LOG_SETTINGS)
                )
            verbose = name == "log_verbose_level"
            if type(value) is not (int if verbose else bool) or (verbose and value not in (0, 1)):
                raise InvalidError(
                    f"`{name}` cannot be {str(value)[:40]!r}", hint="true or false; 0 or 1 for verbosity"
                )
        if asked.get("log_error") is False:
            raise UnsupportedError("errors are always logged", why="somebody has to learn of them")
        if asked:
            await self._service.ask("logging", self._log_order(asked))
        return {**_LOG_FIXED, **self._log_settings()}

    def _log_order(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return the level and whether every request is logged; what is not asked for stays."""
        wanted = {**self._log_settings(), **asked}
        level = next(level for level, name in _LOG_LEVELS if wanted[name] or level == "error")
        if level == "info" and self._log.level == "debug" and "log_info" not in asked:
            level = "debug"
        return {"level": level, "access": wanted["log_verbose_level"] > 0}

    def _log_settings(self) -> dict[str, Any]:
        least = _LEVELS.index(self._log.level)
        told: dict[str, Any] = {name: _LEVELS.index(level) >= least for level, name in _LOG_LEVELS}
        return {**told, "log_verbose_level": int(self._log.access)}

    def tracing(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return the trace settings.

        Raises:
            UnsupportedError: one is to be changed, which only a restart does.
        """
        changed = [name for name, value in asked.items() if value not in (None, [], [""])]
        if changed:
            raise UnsupportedError(
                f"the trace setting `{changed[0][:80]}` cannot be changed while serving",
                hint="start `tilth serve` with `--otlp URL`; clients choose by the `traceparent` header",
            )
        return {"trace_level": ["OFF"], "trace_mode": "opentelemetry"}


def _config(value: Any) -> dict[str, Any]:
    try:
        config = orjson.loads(value) if isinstance(value, str | bytes) else value
    except orjson.JSONDecodeError as error:
        raise InvalidError("`config` is not JSON", why=str(error)[:100]) from None
    unknown = [key for key in config if key not in _SETTINGS] if isinstance(config, dict) else ["that"]
    if unknown:
        raise UnsupportedError(
            f"`config` holds `{str(unknown[0])[:80]}`", why="a bundle configures itself; known: " + ", ".join(_SETTINGS)
        )
    return dict(config)


def _version(key: str) -> str:
    version, slash, name = key.removeprefix("file:").partition("/")
    if not slash or not version.isdecimal() or len(version) > 9 or not name.endswith(".tilth"):
        raise UnsupportedError(f"`{key[:80]}` is no bundle", why="`file:VERSION/NAME.tilth`, with a number as version")
    return version
