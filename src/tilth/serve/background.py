"""Work that nobody waits for: kept from being collected, and its faults logged."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from tilth.serve.logs import Log


class Background:
    """The tasks of one process."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None], what: str) -> None:
        """Do something beside everything else; a fault in it stops nothing."""
        task = asyncio.get_running_loop().create_task(self._guarded(work, what))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None], what: str) -> None:
        try:
            await work
        except Exception as error:
            self._log.write("error", "fault", during=what, error=f"{type(error).__name__}: {error}"[:2000])
