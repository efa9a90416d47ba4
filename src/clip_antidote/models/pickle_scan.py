"""A dry run of a checkpoint's pickles: what they would allocate, found out before PyTorch loads them.

PyTorch's weights-only reader runs no code, but believes every number: a few bytes make it allocate a `bytearray` of
any length, a storage larger than the file, or a tensor that grows its storage. So the instructions are looked at
first, and then carried out with stand-ins that only count (`pickle_dry_run`).
"""

from __future__ import annotations

import mmap
import pickletools
import zipfile
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar, cast

import torch

from clip_antidote.models.pickle_dry_run import DryRun, ExcessError, Ledger

T = TypeVar("T")

MAX_INSTRUCTIONS = 2_000_000
"""A training checkpoint of a large model has some hundred thousand; each can cost some hundred bytes."""

MAX_NESTING = 100
"""Tuples within tuples: hashing deeper ones overflows the interpreter's stack."""

_KNOWN = frozenset(
    [
        "GLOBAL",
        "NEWOBJ",
        "REDUCE",
        "BUILD",
        "APPEND",
        "APPENDS",
        "SETITEM",
        "SETITEMS",
        "MARK",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "NONE",
        "NEWFALSE",
        "NEWTRUE",
        "EMPTY_TUPLE",
        "EMPTY_LIST",
        "EMPTY_DICT",
        "EMPTY_SET",
        "BININT",
        "BININT1",
        "BININT2",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINSTRING",
        "BINPERSID",
        "BINGET",
        "LONG_BINGET",
        "BINPUT",
        "LONG_BINPUT",
        "LONG1",
        "PROTO",
        "STOP",
    ]
)
"""Instructions that PyTorch's weights-only reader follows."""

_TUPLES = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})


def scan_archive(path: Path) -> None:
    """Scans the pickle of PyTorch's zip layout.

    Raises:
        ExcessError: It would allocate more than the file holds.
        pickle.UnpicklingError: It holds objects of other kinds; the message has GLOBAL and their name.
    """
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        if len({name.casefold() for name in sizes}) != len(archive.infolist()):
            raise ExcessError("an entry stands in it twice")
        folder = next(iter(sizes)).partition("/")[0]
        with archive.open(f"{folder}/data.pkl") as entry:
            ledger = Ledger(path.stat().st_size, lambda key: sizes[f"{folder}/data/{key}"])
            carry_out(entry, ledger)


def scan_legacy(file: BinaryIO, size: int) -> None:
    """Scans the five pickles in front of the storages of PyTorch's older layout; see `scan_archive`."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:  # reads no further than the file goes
        ledger = Ledger(size)
        for number in range(5):
            first = carry_out(cast(IO[bytes], content), ledger)
            if number == 0 and first != torch.serialization.MAGIC_NUMBER:
                raise ExcessError("it does not begin as a checkpoint does")


def carry_out(file: IO[bytes], ledger: Ledger, reader: type[DryRun] = DryRun) -> Any:
    """Checks the instructions of one pickle and follows them with stand-ins.

    Returns:
        What the pickle stands for, as the stand-ins of `reader`.

    Raises:
        ExcessError: It would allocate more than the file holds, or cannot be read.
        pickle.UnpicklingError: It holds objects that `reader` refuses; the message has GLOBAL and their name.
    """
    start = file.tell()
    _check_instructions(file)
    ledger.copies = file.tell() - start
    file.seek(start)
    try:
        return reader(file, ledger).load()
    except ExcessError:
        raise
    except Exception as error:
        if str(error).startswith("GLOBAL "):
            raise
        raise ExcessError(f"its pickle cannot be read, {type(error).__name__}") from error


def _check_instructions(file: IO[bytes]) -> None:
    """Reads over one pickle, up to its end, and refuses what a state dict does not need.

    Keeps the nesting of tuples on a stack as the reader would; everything else counts as flat, since it has no hash.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    for count, (code, argument, _) in enumerate(pickletools.genops(file)):
        slot = argument if isinstance(argument, int) else 0
        if code.name not in _KNOWN:
            raise ExcessError(f"it has the instruction {code.name}, which PyTorch does not write")
        if count == MAX_INSTRUCTIONS:
            raise ExcessError(f"it has more than {MAX_INSTRUCTIONS:_} instructions")
        if code.name == "MARK":
            marks.append(len(stack))
        elif code.name.endswith("BINPUT"):
            if slot > MAX_INSTRUCTIONS:  # readers keep a table up to the highest number
                raise ExcessError(f"it numbers an object {slot}")
            memo[slot] = stack[-1] if stack else 0
        elif code.name.endswith("BINGET"):
            stack.append(memo.get(slot, 0))
        else:
            taken = take(stack, marks, code)
            depth = 1 + max(taken, default=0) if code.name in _TUPLES else 0
            if depth > MAX_NESTING:
                raise ExcessError("it nests tuples without end")
            stack += [depth] * len(code.stack_after)


def take(stack: list[T], marks: list[int], code: pickletools.OpcodeInfo) -> list[T]:
    """Takes from the stack what an instruction takes."""
    count = len(code.stack_before)
    if pickletools.markobject in code.stack_before:
        below = code.stack_before.index(pickletools.markobject)
        count = len(stack) - (marks.pop() if marks else 0) + below
    cut = max(0, len(stack) - count)
    taken = stack[cut:]
    del stack[cut:]
    return taken
