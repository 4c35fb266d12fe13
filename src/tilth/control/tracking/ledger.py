"""What passes to a tracking server, as events: the first call about a run at once, the rest as one sum a minute."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tilth.control.access import Principal
from tilth.control.change import Change
from tilth.core.errors import TilthError

_LOG = logging.getLogger("tilth.tracking")
_MINUTE_S = 60.0
_MOST_SUMS = 4096
Changed = Callable[[Principal, Callable[[Change], Any]], Any]


@dataclass
class _Sum:
    principal: Principal
    told: "asyncio.Future[None]"
    calls: Counter[str] = field(default_factory=Counter)


class Ledger:
    """Tells the audit log of every call that changes something; `changed` runs work in a transaction.

    A script logs metrics by the thousand, and an event for each would make the log theirs. What was counted and not
    told is lost when this process is killed; that somebody wrote to a run in that minute is not.
    """

    def __init__(self, changed: Changed, subject: str) -> None:
        self._changed, self._subject = changed, subject
        self._sums: dict[tuple[str, str, str], _Sum] = {}

    async def note(self, principal: Principal, action: str, method: str, path: str, run: str) -> None:
        """Tell of a call that is about to pass, or count it where its run was told of within the minute.

        Raises:
            TilthError: the event cannot be kept; the call may not pass.
        """
        if len(self._sums) >= _MOST_SUMS:
            await self.tell()
        key = (principal.user_id, action, run)
        known = self._sums.get(key)
        if known is not None:
            # None passes before the first is told of.
            await asyncio.shield(known.told)
            known.calls[f"{method} {path}"] += 1
            return
        telling = asyncio.ensure_future(self._event(principal, action, run, method=method, path=path[:200]))
        self._sums[key] = _Sum(principal, telling)
        try:
            await asyncio.shield(telling)
        except TilthError:
            self._sums.pop(key, None)
            raise

    async def tell(self) -> None:
        """Tell of what was counted, and begin anew."""
        sums, self._sums = self._sums, {}
        for (_, action, run), made in sums.items():
            if not made.calls:
                continue
            common = dict(made.calls.most_common(8))
            try:
                await self._event(made.principal, action, run, calls=made.calls.total(), paths=common)
            except TilthError as error:
                _LOG.warning("%d calls to tracking are not in the audit log: %s", made.calls.total(), error)

    async def run(self) -> None:
        """Tell every minute, until this is cancelled."""
        while True:
            await asyncio.sleep(_MINUTE_S)
            await self.tell()

    async def _event(self, principal: Principal, action: str, run: str, **details: Any) -> None:
        subject = f"{self._subject}/{run}" if run else self._subject
        await asyncio.to_thread(self._changed, principal, lambda change: change.tell(action, subject, None, **details))
