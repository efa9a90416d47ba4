"""The Python objects that a pickle names, with their positions: found by reading instructions, following none."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Literal

from clip_antidote.models.pickle_dry_run import DryRun, Ledger
from clip_antidote.models.pickle_scan import MAX_INSTRUCTIONS, take

Verdict = Literal["plain", "code", "foreign", "unsafe"]

_RUNNING_TEXT = """
os posix nt ntpath posixpath subprocess sys importlib runpy pty shutil socket ssl ctypes _ctypes cffi pickle
_pickle cloudpickle dill joblib marshal types code codeop multiprocessing _posixsubprocess concurrent
threading asyncio signal webbrowser pip pdb bdb cProfile profile timeit trace doctest idlelib http urllib
urllib3 requests httpx aiohttp ftplib smtplib tempfile io _io operator _operator functools site platform
distutils setuptools venv ensurepip zipimport zipapp pydoc lib2to3 commands sqlite3 logging inspect gc atexit
linecache pkgutil shelve builtins.eval builtins.exec builtins.compile builtins.open builtins.getattr
builtins.setattr builtins.delattr builtins.vars builtins.globals builtins.locals builtins.__import__
builtins.input builtins.breakpoint builtins.apply builtins.execfile builtins.type builtins.map builtins.filter
torch.load torch.hub torch.jit torch.serialization torch.utils.cpp_extension torch.utils.model_zoo
torch.storage._load_from_bytes torch._inductor torch._dynamo torch.fx torch.package torch.distributed
torch.ops torch.classes torch.library numpy.f2py numpy.load numpy.testing tensorflow keras
"""
_RUNNING = frozenset(_RUNNING_TEXT.split())
"""Modules and single names that run programs, load code or reach files and networks."""


@dataclass(frozen=True)
class Named:
    """An object that a pickle names; `position` counts from the beginning of the pickle."""

    module: str
    name: str
    opcode: str
    position: int

    @property
    def verdict(self) -> Verdict:
        """See `PickleGlobal`."""
        if self.module.startswith("__torch__") or (self.module, self.name[:6]) == ("torch.jit._pickle", "build_"):
            return "code"
        full = f"{self.module.replace('__builtin__', 'builtins')}.{self.name}"
        parts = full.split(".")
        if any(".".join(parts[:n]) in _RUNNING for n in range(1, len(parts) + 1)) or "?" in parts:
            return "unsafe"
        try:
            DryRun(io.BytesIO(), Ledger(0)).find_class(self.module, self.name)
        except pickle.UnpicklingError:
            return "foreign"
        return "plain"


class _Stack:
    """What is known of an unpickler's stack without following the pickle: its texts."""

    def __init__(self) -> None:
        self.items: list[str | None] = []
        self.marks: list[int] = []
        self.memo: dict[int, str | None] = {}

    def named(self) -> tuple[str, str]:
        """Module and name on top of the stack."""
        module, name = (["?", "?", *(text if text is not None else "?" for text in self.items[-2:])])[-2:]
        return module, name

    def step(self, code: pickletools.OpcodeInfo, argument: object) -> None:
        top = self.items[-1] if self.items else None
        if code.name == "MARK":
            self.marks.append(len(self.items))
        elif code.name == "POP" and self.marks and self.marks[-1] == len(self.items):
            self.marks.pop()
        elif code.name == "MEMOIZE":
            self.memo[len(self.memo)] = top
        elif code.name.endswith("PUT"):
            if isinstance(argument, int):
                self.memo[argument] = top
        elif code.name.endswith("GET"):
            self.items.append(self.memo.get(argument) if isinstance(argument, int) else None)
        elif code.name == "DUP":
            self.items.append(top)
        else:
            take(self.items, self.marks, code)
            is_text = isinstance(argument, str) and ("UNICODE" in code.name or "STRING" in code.name)
            self.items += [str(argument)[:500] if is_text else None] * len(code.stack_after)


def list_globals(file: IO[bytes]) -> Iterator[Named | str]:
    """Reads over one pickle and names what it names; leaves the file behind its end.

    Yields:
        An object; or, as the last, a text that says why the rest of the pickle cannot be read.
    """
    stack = _Stack()
    try:
        for count, (code, argument, position) in enumerate(pickletools.genops(file)):
            if count == MAX_INSTRUCTIONS:
                yield f"more than {MAX_INSTRUCTIONS:_} instructions"
                return
            where = position or 0
            if code.name in ("GLOBAL", "INST"):
                module, _, name = str(argument).partition(" ")
                yield Named(module[:500], name[:500], code.name, where)
            elif code.name == "STACK_GLOBAL":
                yield Named(*stack.named(), code.name, where)
            elif code.name.startswith("EXT"):
                yield Named("?", f"extension {argument}", code.name, where)
            stack.step(code, argument)
    except Exception as error:  # a crafted pickle can make the reader fail in any way
        yield (str(error) or type(error).__name__).splitlines()[0][:200]
