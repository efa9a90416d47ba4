"""Stand-ins for what a checkpoint's pickle names: they count what PyTorch would allocate, and allocate nothing."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import torch

MAX_DIMENSIONS = 64
"""As in PyTorch."""

SHARED, SLACK = 8, 2**26
"""Tensors may be views of the same storage, tied weights say: in all this many times the file, and some bytes."""

DTYPES = {
    "Byte": torch.uint8,
    "Char": torch.int8,
    "Bool": torch.bool,
    "Short": torch.int16,
    "Int": torch.int32,
    "Long": torch.int64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Float": torch.float32,
    "Double": torch.float64,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}
"""Types of plain numbers, by the name of the storage class."""

_SIZES = {
    "Untyped": 1,
    **dict.fromkeys(("QInt8", "QUInt8", "QUInt4x2", "QUInt2x4"), 1),
    "QInt32": 4,
    **{name: kind.itemsize for name, kind in DTYPES.items()},
}
"""Bytes of an element, by the name of the storage class; PyTorch warns where the classes themselves are asked."""

_LATIN = frozenset({"latin1", "latin-1"})
_INERT = frozenset(
    {
        "builtins.complex",
        "torch.device",
        "torch.nn.parameter.Parameter",
        "torch.serialization._get_layout",
        "torch._utils._rebuild_meta_tensor_no_storage",
        "torch._utils._rebuild_sparse_tensor",
        *(f"torch.{name}" for name in dir(torch) if name.startswith("per_")),
    }
)
"""Allocate nothing by themselves."""


class ExcessError(ValueError):
    """The file declares more than it holds, or is no checkpoint at all; the message says what."""


class Kind:
    """Stands in for a data type, or the storage class of one, by the name of either."""

    def __init__(self, size: int, name: str = "") -> None:
        self.size = size
        self.name = name


class Storage(Kind):
    """Stands in for a storage of so many bytes, with elements of this kind; a view begins somewhere in another."""

    def __init__(self, kind: Kind, key: Any, length: int, start: int = 0) -> None:
        super().__init__(kind.size, kind.name)
        self.key = key
        self.length = length
        self.start = start


class _Nothing:
    """Stands in for a tensor and whatever else keeps nothing that counts; slots make it refuse a state."""

    __slots__ = ()


class _Dict(dict[Any, Any]):
    """Stands in for an ordered dictionary; its state is PyTorch's `_metadata`."""

    def __init__(self, charge: Callable[..., None]) -> None:
        super().__init__()
        self.charge = charge

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.charge(state)


class Ledger:
    """What a file of `size` bytes declares; `stored` gives the bytes of a storage where each has an entry."""

    def __init__(self, size: int, stored: Callable[[Any], int] | None = None) -> None:
        self.size = size
        self.stored = stored
        self.storages: dict[Any, Storage] = {}
        self.held = 0
        self.tensors = 0
        self.copies = 0

    def storage(self, kind: Kind, key: Any, elements: int) -> Storage:
        if key not in self.storages:
            length = _count(elements) * kind.size
            self.storages[key] = Storage(kind, key, length)
            self.held += length
            if self.held > self.size or (self.stored is not None and length > self.stored(key)):
                raise ExcessError("a storage is declared larger than the file has bytes for it")
        return self.storages[key]

    def tensor(self, storage: Storage, kind: Kind, offset: int, shape: Any, strides: Any) -> Any:
        if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
            raise ExcessError("a tensor has impossible dimensions")
        numbers, steps = [_count(n) for n in shape], [_count(n) for n in strides]
        elements = math.prod(numbers)
        reach = sum((n - 1) * step for n, step in zip(numbers, steps, strict=True)) + 1 if elements else 0
        if (_count(offset) + reach) * kind.size > storage.length:
            raise ExcessError("a tensor is declared larger than its storage")
        self.tensors += elements * kind.size
        if self.tensors > SHARED * self.size + SLACK:
            raise ExcessError("its tensors are declared far larger than the file")
        return _Nothing()

    def charge(self, *parts: Any) -> None:
        """Counts what is copied: an honest pickle hands every item on once, and spends a byte on it at least."""
        self.copies -= sum(len(part) for part in parts if part is not None)
        if self.copies < 0:
            raise ExcessError("it copies the same items over and over")


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ExcessError("a number of elements is none")
    return value


class DryRun(pickle.Unpickler):
    """Follows a pickle with stand-ins for everything it names; none of PyTorch's own functions is called."""

    def __init__(self, file: Any, ledger: Ledger) -> None:
        super().__init__(file, encoding="bytes")
        self.ledger = ledger

    def persistent_load(self, pid: Any) -> Storage:
        _, kind, key, _, elements, *view = pid
        storage = self.ledger.storage(kind, key, elements)
        if not view or view[0] is None:
            return storage
        _, offset, size = view[0]
        length = _count(size) * kind.size
        if _count(offset) * kind.size + length > storage.length:
            raise ExcessError("a view is declared larger than its storage")
        return Storage(kind, key, length, _count(offset) * kind.size)

    def find_class(self, module: str, name: str, /) -> Any:
        full = f"{module.replace('__builtin__', 'builtins')}.{name}"
        kind, suffix, rest = name.partition("Storage")
        if module in {"torch", "torch.cuda", "torch.storage"} and suffix and not rest and kind in _SIZES:
            return Kind(_SIZES[kind], kind)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return Kind(getattr(torch, name).itemsize, name)
        if full in _INERT:
            return lambda *_: _Nothing()
        known: Mapping[str, Callable[..., Any]] = {
            "collections.OrderedDict": self._dictionary,
            "collections.Counter": self._dictionary,
            "builtins.set": self._copied,
            "torch.Size": self._size,
            "_codecs.encode": self._bytes,
            "builtins.bytearray": self._bytes,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._typed_tensor,
            "torch._utils._rebuild_qtensor": self._tensor,
            "torch._utils._rebuild_parameter": lambda *_: _Nothing(),
            "torch._utils._rebuild_parameter_with_state": self._with_state,
            "torch._tensor._rebuild_from_type_v2": self._with_type,
        }
        if full not in known:
            raise pickle.UnpicklingError(f"GLOBAL {full.removeprefix('builtins.')}")
        return known[full]

    def _dictionary(self, *parts: Any) -> _Dict:
        self.ledger.charge(*parts)
        return _Dict(self.ledger.charge)

    def _copied(self, *parts: Any) -> _Nothing:
        self.ledger.charge(*parts)
        return _Nothing()

    def _size(self, numbers: Any) -> tuple[int, ...]:
        self.ledger.charge(numbers)
        return tuple(_count(n) for n in numbers)

    def _bytes(self, text: Any = "", encoding: str = "latin1") -> bytes:
        if encoding not in _LATIN:  # others make text longer
            raise ExcessError("it has bytes in an encoding that is not Latin-1")
        self.ledger.charge(text)
        return b""

    def _tensor(self, storage: Storage, offset: int, shape: Any, strides: Any, *_: Any) -> Any:
        return self.ledger.tensor(storage, storage, offset, shape, strides)

    def _typed_tensor(
        self, storage: Storage, offset: int, shape: Any, strides: Any, grad: Any, hooks: Any, kind: Kind, *_: Any
    ) -> Any:
        return self.ledger.tensor(storage, kind, offset, shape, strides)

    def _with_state(self, data: Any, grad: Any, hooks: Any, state: Any) -> _Nothing:
        self.ledger.charge(*(state if isinstance(state, tuple) else (state,)))
        return _Nothing()

    def _with_type(self, rebuild: Callable[..., Any], kind: Any, arguments: Any, state: Any) -> Any:
        self.ledger.charge(*(state if isinstance(state, tuple) else (state,)))
        return rebuild(*arguments)
