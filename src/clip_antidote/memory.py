"""How much memory a piece of work takes at most, where the system says so."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MIB = 2**20


@contextmanager
def peak_memory() -> Iterator[dict[str, int]]:
    """Measures the peak of a block, in MiB; the mapping is filled when the block ends.

    "process" is the resident memory of the whole process at its largest: the libraries, the models and images that
    were there before, and what the block added. Linux alone tells it. "device" is what PyTorch had allocated on the
    current CUDA device at most. What cannot be measured is not there.
    """
    found: dict[str, int] = {}
    reset = _reset_process()
    on_device = torch.cuda.is_initialized()
    if on_device:
        torch.cuda.reset_peak_memory_stats()
    try:
        yield found
    finally:
        if reset and (peak := _process_peak()) is not None:
            found["process"] = peak
        if on_device:
            found["device"] = round(torch.cuda.max_memory_allocated() / MIB)


def _reset_process() -> bool:
    """Sets the mark of the process's peak to what it holds now, after handing back what was freed."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # else freed memory of earlier work, which is kept, would count
    try:
        _RESET.write_text("5")  # proc(5): resets the peak resident set size
    except OSError:
        return False
    return True


def _process_peak() -> int | None:
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return next(round(int(line.split()[1]) / 1024) for line in lines if line.startswith("VmHWM:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
