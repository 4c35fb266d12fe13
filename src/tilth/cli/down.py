"""`tilth down`: the control plane of this machine, ended in order."""

import os
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from tilth.cli.output import AsJson, emit
from tilth.control.home import Home, default_home
from tilth.core.errors import MissingError, UnavailableError

_AGAIN_S = 0.05


def command(
    home: Annotated[Path | None, typer.Option("--home", help="Folder of everything that it keeps.")] = None,
    wait: Annotated[float, typer.Option("--wait", min=0, max=600, help="Seconds to wait for its end.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """End the control plane of this machine.

    Requests that are on their way are answered first. Endpoints end with it.

    Raises:
        MissingError: none runs there.
        UnavailableError: it has not ended after `wait`.
    """
    place = Home((home or default_home()).absolute())
    pid = place.holder()
    if pid is None:
        raise MissingError(
            "no control plane runs on this home",
            why=f"nobody has `{place.folder}`",
            hint="name another one with `--home`",
        )
    _end(pid, place)
    until = time.monotonic() + wait
    while place.is_held():
        if time.monotonic() > until:
            raise UnavailableError(
                f"the control plane has not ended after {wait:g} s",
                why=f"process {pid} still has `{place.folder}`",
                hint=f"look at its log, or end it with `kill -9 {pid}`: nothing that was acknowledged is lost",
            )
        time.sleep(_AGAIN_S)
    emit({"home": str(place.folder), "pid": pid}, as_json, lambda: f"the control plane of `{place.folder}` has ended")


def _end(pid: int, place: Home) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # The number may have gone to another process since it was read; who still has the home is the one meant.
        if place.holder() == pid:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
    finally:
        os.close(handle)
