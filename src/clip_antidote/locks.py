"""Locks between processes: held by the kernel, so that a process that is killed leaves none behind."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

_IMPOSSIBLE = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What file systems answer that have no locks."""

_held: set[tuple[int, int, str]] = set()
"""The locks of this process, by process (a fork inherits none), thread and path."""


class Claim(Enum):
    """What came of asking for a lock."""

    OURS = "taken now"
    AGAIN = "held by this thread already"
    TAKEN = "held by another one"
    UNKNOWN = "there are no locks here"


@contextmanager
def claimed(file: Path) -> Iterator[Claim]:
    """Holds a lock file inside the block, unless another process holds it; never waits.

    The lock is flock's and ends with the process, however that ends; what a killed process leaves is an empty file
    that hinders nobody. Over NFS it holds between machines too, unless the share is mounted without locks. Where
    there are none (such a share, or a system without flock, such as Windows), the block runs without one.

    A thread that holds the lock may claim it again.

    Args:
        file: The lock file, made and removed here; its folder is made too.

    Raises:
        OSError: The file cannot be made.
    """
    key = (os.getpid(), threading.get_ident(), os.path.realpath(file))
    if key in _held:
        yield Claim.AGAIN
        return
    claim, lock = _lock(file)
    if lock is None:
        yield claim
        return
    _held.add(key)
    try:
        yield claim
    finally:
        _held.discard(key)
        with suppress(OSError):
            file.unlink()  # still locked, so nobody else's
        os.close(lock)


def _lock(file: Path) -> tuple[Claim, int | None]:
    """Tries once to lock a file; returns the open file where that succeeded."""
    try:
        import fcntl
    except ImportError:
        return Claim.UNKNOWN, None
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if error.errno in _IMPOSSIBLE:
                with suppress(OSError):
                    file.unlink()
                return Claim.UNKNOWN, None
            if error.errno in {errno.EAGAIN, errno.EACCES}:
                return Claim.TAKEN, None
            raise
        if _same(file, lock):
            return Claim.OURS, lock
        os.close(lock)  # its owner removed it between our opening and our locking it


def _same(file: Path, lock: int) -> bool:
    """Whether an open file is still the one under its name."""
    try:
        return os.path.samestat(file.stat(), os.fstat(lock))
    except FileNotFoundError:
        return False


def wait_for_lock(file: int) -> None:
    """Waits until no other process holds the lock of an open file, and holds it until the file is closed.

    Where there are no locks, it returns at once.
    """
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _IMPOSSIBLE:
            raise
