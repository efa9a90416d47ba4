"""Ctrl-C that waits for the end of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held_interrupt() -> Iterator[Callable[[], bool]]:
    """Holds back the first Ctrl-C inside the block; the second one interrupts at once, as ever.

    Has no effect outside of the main thread, or where a program handles Ctrl-C in its own way.

    Yields:
        A function that says whether there was one. It is up to the block to stop then; a Ctrl-C that
        the block ends without having asked for is raised at its end.
    """
    ordinary = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or ordinary is not signal.default_int_handler:
        yield lambda: False
        return
    requested = asked = False

    def hold(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        requested = True
        signal.signal(signal.SIGINT, ordinary)

    def look() -> bool:
        nonlocal asked
        asked = requested
        return requested

    signal.signal(signal.SIGINT, hold)
    try:
        yield look
    finally:
        signal.signal(signal.SIGINT, ordinary)
    if requested and not asked:
        raise KeyboardInterrupt
