"""Memory that a worker writes large tensors into and a runner reads them from, so that they pass no socket."""

import fcntl
import mmap
import os
from bisect import insort

import numpy as np

from tilth.ports.arrays import Array

#: What is in there at most; what finds no room takes the socket. Only what was ever used of it takes memory.
ARENA_BYTES = 64 << 20
#: Below this the socket is as quick.
_WORTH_BYTES = 1 << 15
#: Engines read faster, and some only, from addresses that are multiples of this.
_ALIGNMENT = 64
#: `F_SEAL_FUTURE_WRITE` of Linux 5.1: whoever gets the descriptor cannot map it for writing.
_NO_MORE_WRITERS = 0x10


class Arena:
    """A stretch of memory with one writer. `fd` is for the reader, who cannot change its size or content.

    Raises:
        OSError: there is no room for one.
    """

    def __init__(self, size: int = ARENA_BYTES) -> None:
        self._size = size
        self.fd = os.memfd_create("tilth-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, size)
            self._map = mmap.mmap(self.fd, size)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _NO_MORE_WRITERS | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)
        except BaseException:
            os.close(self.fd)
            raise
        #: Start and end of what is taken, in order.
        self._taken: list[tuple[int, int]] = []

    def put(self, array: Array) -> int | None:
        """Copy an array of numbers in, and return where; None when it is not worth it or finds no room."""
        size = array.nbytes
        if size < _WORTH_BYTES or array.dtype.kind not in "fiub":
            return None
        at = 0
        for start, end in self._taken:
            if at + size <= start:
                break
            at = end + -end % _ALIGNMENT
        if at + size > self._size:
            return None
        np.ndarray(array.shape, array.dtype.newbyteorder("<"), self._map, at)[...] = array
        insort(self._taken, (at, at + size))
        return at

    def give(self, at: int) -> None:
        """Let what `put` returned be written over; nobody reads it any more."""
        self._taken = [pair for pair in self._taken if pair[0] != at]

    def close(self) -> None:
        """Give the memory back, as soon as no reader has it."""
        self._map.close()
        os.close(self.fd)


def mapped(fd: int) -> memoryview:
    """Return an arena's memory for reading; the descriptor is closed, and the memory goes with the last view of it.

    Raises:
        OSError: it is no arena.
    """
    try:
        return memoryview(mmap.mmap(fd, os.fstat(fd).st_size, prot=mmap.PROT_READ))
    except ValueError as error:
        raise OSError(str(error)) from None
    finally:
        os.close(fd)
