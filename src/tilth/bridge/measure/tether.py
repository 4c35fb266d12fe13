"""What binds a child process to its parent, so that none is left behind."""

import ctypes
import resource
import signal

_PR_SET_PDEATHSIG = 1


def tie_to_parent() -> None:
    """Die when the parent dies, leave interrupts to it, and write no core files.

    Where the system cannot do the first, the child ends when it next reads its command pipe and finds it closed; so
    it does when the parent died before this was called.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
