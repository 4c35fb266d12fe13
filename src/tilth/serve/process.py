"""The supervisor's handle on a process of its own: a line of JSON a message, both ways, and how it ended."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tilth.bridge.measure.worker import last_words

_LINE_BYTES = 1 << 26
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Process:
    """A child with two pipes. `start` makes it."""

    def __init__(
        self,
        inner: asyncio.subprocess.Process,
        commands: asyncio.WriteTransport,
        reader: asyncio.StreamReader,
        log: Path,
    ) -> None:
        self._inner, self._commands, self._reader, self._log = inner, commands, reader, log
        self.born = time.monotonic()

    @classmethod
    async def start(
        cls, command: Sequence[str], config: Mapping[str, Any], log: Path | None, pass_fds: Sequence[int] = ()
    ) -> "Process":
        """Start a child and send it its first line. What it prints goes to `log`, or where ours goes.

        Raises:
            OSError: the operating system cannot start a process.
        """
        command_read, commands = os.pipe()
        replies, reply_write = os.pipe()
        try:
            with contextlib.ExitStack() as stack:
                out = stack.enter_context(log.open("wb")) if log is not None else None
                inner = await asyncio.create_subprocess_exec(
                    *command,
                    str(command_read),
                    str(reply_write),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    pass_fds=(command_read, reply_write, *pass_fds),
                    process_group=0,
                )
        except BaseException:
            os.close(commands)
            os.close(replies)
            raise
        finally:
            os.close(command_read)
            os.close(reply_write)
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(limit=_LINE_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        await loop.connect_read_pipe(lambda: protocol, os.fdopen(replies, "rb", buffering=0))
        # A transport, for a write to the pipe of a child that is stopped or hangs would wait, and all others with it.
        writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(commands, "wb", buffering=0))
        made = cls(inner, writer, reader, log or Path("/dev/null"))
        made.send(config)
        return made

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message, or keep it until the child reads.

        A child that is gone misses it, and its end is told elsewhere; one that never reads is ended.
        """
        if not self._commands.is_closing():
            self._commands.write(json.dumps(message).encode() + b"\n")
            if self._commands.get_write_buffer_size() > _LINE_BYTES:
                self.kill()

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what the child says until it closes its pipe."""
        while line := await self._reader.readline():
            with contextlib.suppress(ValueError):
                told = json.loads(line)
                if isinstance(told, dict):
                    yield told

    async def answer(self) -> dict[str, Any]:
        """Return the next message; empty when there is none any more."""
        async for message in self.messages():
            return message
        return {}

    async def ended(self) -> int:
        """Wait for the child's end and return its exit code, negative for a signal."""
        code = await self._inner.wait()
        if not self._commands.is_closing():
            self._commands.abort()
        return code

    def kill(self) -> None:
        """End the child and what it started at once."""
        if self._inner.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._inner.pid, signal.SIGKILL)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._inner.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._inner.returncode is None

    def resident_bytes(self) -> int:
        """Return its resident memory; quick to ask for, unlike what it holds without shared pages."""
        with contextlib.suppress(OSError, IndexError, ValueError):
            if self.alive:
                return int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
        return 0

    def last_words(self) -> str:
        """Return the end of what it printed."""
        return last_words(self._log)


def how_it_ended(code: int) -> str:
    """Return an exit code in words."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process was ended by signal {-code}"
