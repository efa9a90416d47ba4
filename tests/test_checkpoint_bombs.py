"""Checkpoints that would allocate what they do not hold are refused unread; honest ones of every kind are read."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clip_antidote.errors import ModelError
from clip_antidote.models import pickle_scan, read_checkpoint
from clip_antidote.models.pickle_dry_run import _SIZES

GIB = 2**30
STORAGE = b"ctorch\nFloatStorage\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
NOTHING = b"ccollections\nOrderedDict\n)R"


def integer(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def storage(elements: int, *, key: str = "0") -> bytes:
    """A reference to a storage, left on the stack."""
    return b"(" + text("storage") + STORAGE + text(key) + text("cpu") + integer(elements) + b"tQ"


def tensor(held: bytes, shape: int, stride: int = 1) -> bytes:
    """A tensor of one dimension over a storage, left on the stack."""
    sizes = integer(shape) + b"\x85" + integer(stride) + b"\x85"
    return REBUILD + b"(" + held + integer(0) + sizes + b"\x89" + NOTHING + b"tR"


def state(value: bytes) -> bytes:
    """A pickle of a dictionary with one entry."""
    return b"\x80\x02}" + text("w") + value + b"s."


def archive(path: Path, data: bytes, *, held: int = 16) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("m/data.pkl", data)
        file.writestr("m/version", "3\n")
        file.writestr("m/data/0", bytes(held))
    return path


def legacy(path: Path, data: bytes) -> Path:
    head: tuple[object, ...] = (torch.serialization.MAGIC_NUMBER, 1001, {})
    path.write_bytes(
        b"".join(pickle.dumps(part, 2) for part in head)
        + data
        + pickle.dumps(["0"], 2)
        + struct.pack("<q", 4)
        + bytes(16)
    )
    return path


def refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The sentence; PyTorch itself must not have been asked."""

    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("PyTorch was asked to load it")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path)
    assert "AssertionError" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_the_honest_ones_of_these_are_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt", state(tensor(storage(4), 4)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_checkpoint(path)["w"].tolist() == [0.0] * 4


BOMBS = {
    "bytearray of a length": (b"c__builtin__\nbytearray\n" + integer(8 * GIB) + b"\x85R", "cannot be read"),
    "tensor class of a length": (b"ctorch\nFloatTensor\n" + integer(8 * GIB) + b"\x85R", "torch.FloatTensor"),
    "parameter of a length": (b"ctorch.nn.parameter\nParameter\n" + integer(8) + b"\x85\x81", "cannot be read"),
    "storage class of a length": (b"ctorch\nUntypedStorage\n" + integer(8 * GIB) + b"\x85R", "cannot be read"),
    "storage beyond the file": (tensor(storage(GIB), 4), "larger than the file"),
    "tensor beyond its storage": (tensor(storage(4), GIB), "larger than its storage"),
    "strides beyond the storage": (tensor(storage(4), 2, GIB), "larger than its storage"),
    "negative sizes": (tensor(storage(4), -1), "is none"),
    "one element many times": (tensor(storage(4), 10**12, 0), "far larger than the file"),
    "new instruction": (b"\x96" + struct.pack("<Q", 8 * GIB), "cannot be read|damaged"),
    "long integer": (b"\x8b" + struct.pack("<i", 3) + b"abc", "instruction LONG4"),
    "memo far away": (b"Nr" + struct.pack("<I", 2**32 - 1), "numbers an object"),
    "wide encoding": (b"c_codecs\nencode\n" + text("a") + text("utf-32") + b"\x86R", "not Latin-1"),
    "many copies": (b"(" + b"N" * 1000 + b"lq\x01"[1:], "damaged"),
    "quantized of a size": (
        b"ctorch._utils\n_rebuild_qtensor\n(" + storage(4) + integer(0) + integer(GIB) + b"\x85" + b"K\x01\x85)tR",
        "larger than its storage",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("write", [archive, legacy])
def test_bombs_are_refused_unread(name: str, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value, said = BOMBS[name]
    sentence = refused(write(tmp_path / "bomb.pt", state(value)), monkeypatch)
    assert any(part in sentence for part in said.split("|")), sentence


def test_copies_of_copies_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = b"]q\x00(" + b"N" * 200 + b"e"
    copy = b"c__builtin__\nset\nq\x01" + b"h\x00\x85R" + b"h\x01h\x00\x85R" * 50
    data = b"\x80\x02(" + items + copy + b"t."
    assert "over and over" in refused(archive(tmp_path / "copies.pt", data), monkeypatch)


def test_nesting_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = b"\x80\x02}" + b")" + b"\x85" * 500_000 + b"Ns."
    assert "nests tuples" in refused(archive(tmp_path / "deep.pt", deep), monkeypatch)


def test_the_number_of_instructions_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_scan, "MAX_INSTRUCTIONS", 1000)
    data = b"\x80\x02](" + b"}" * 1000 + b"e."
    assert "more than 1_000 instructions" in refused(archive(tmp_path / "many.pt", data), monkeypatch)


def test_repeated_storages_are_bounded_by_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = b"".join(text(str(n)) + tensor(storage(10, key=str(n)), 10) for n in range(200))
    data = b"\x80\x02}(" + many + b"u."
    with zipfile.ZipFile(tmp_path / "repeated.pt", "w") as file:
        file.writestr("m/data.pkl", data)
        for n in range(200):
            file.writestr(f"m/data/{n}", bytes(39))
    assert "larger than the file" in refused(tmp_path / "repeated.pt", monkeypatch)


def test_names_that_stand_twice_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "twice.pt", state(tensor(storage(4), 4)))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("m/DATA.PKL", b"other")
    assert "stands in it twice" in refused(path, monkeypatch)


def test_a_pickle_elsewhere_in_the_archive_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as file:
        file.writestr("m/version", "3")
        file.writestr("n/data.pkl", b"x")
    assert "not a PyTorch checkpoint" in refused(tmp_path / "other.pt", monkeypatch)


def test_a_little_compression_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "packed.pt", "w") as file:
        file.writestr("m/data.pkl", state(tensor(storage(4), 4)), zipfile.ZIP_DEFLATED)
        file.writestr("m/data/0", bytes(16))
        file.writestr("m/other", bytes(10**5))
    assert "compressed inside" in refused(tmp_path / "packed.pt", monkeypatch)


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [GIB], "data_offsets": [0, 16]}},
        {"w": {"dtype": "F32", "shape": [GIB], "data_offsets": [0, 4 * GIB]}},
        {"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 16]}},
        {"w": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}},
    ],
)
def test_safetensors_hold_what_they_declare(header: dict[str, Any], tmp_path: Path) -> None:
    data = json.dumps(header).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(data)) + data + bytes(16))
    with pytest.raises(ModelError, match="damaged or truncated"):
        read_checkpoint(tmp_path / "m.safetensors")


@pytest.mark.parametrize("old", [False, True])
def test_training_checkpoints_with_all_that_they_hold_are_read(old: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    model[2].weight = model[0].weight  # tied
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()
    marked = nn.Parameter(torch.ones(2))
    marked.no_decay = True  # type: ignore[attr-defined]
    weights = model.state_dict()
    extras = {
        "half": torch.ones(3).half(),
        "brain": torch.ones(3).bfloat16(),
        "expanded": torch.ones(1).expand(1000),
        "view": torch.arange(10.0)[2:5],
        "transposed": torch.randn(3, 4).T,
        "nothing": torch.empty(0, 4),
        "scalar": torch.tensor(1),
        "flags": torch.tensor([True]),
        "marked": marked,
    }
    content = {
        "epoch": 3,
        "state_dict": OrderedDict([*weights.items(), *extras.items()]),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "shape": torch.Size([1, 2]),
        "seen": {1, 2, 3},
        "counts": Counter("abca"),
        "raw": b"\x00\xffabc",
        "more": bytearray(b"abc"),
        "complex": 1 + 2j,
        "type": torch.float16,
        "device": torch.device("cpu"),
        "sparse": torch.eye(3).to_sparse(),
        "losses": [0.5] * 5000,
        "big": 2**70,
        "nested": ((((1,),),),),
    }
    torch.save(content, tmp_path / "m.pt", _use_new_zipfile_serialization=not old)
    read = read_checkpoint(tmp_path / "m.pt")
    assert read.keys() == content["state_dict"].keys()  # type: ignore[attr-defined]
    for name, value in (weights | extras).items():
        assert torch.equal(read[name], value), name


def test_every_kind_of_storage_is_known() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in torch.storage._dtype_to_storage_type_map().items():
            assert _SIZES[kind[1].removesuffix("Storage")] == kind[0].itemsize
