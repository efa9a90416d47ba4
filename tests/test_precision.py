"""In which precision networks run, by what a device can do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from clip_antidote.precision import Precision, autocast, computes_in_bf16
from clip_antidote.versions import library_versions

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def ask_again() -> Iterator[None]:
    computes_in_bf16.cache_clear()
    yield
    computes_in_bf16.cache_clear()


def product(precision: Precision) -> torch.dtype:
    with autocast(CPU, precision):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": False, "avx512_f": True, "avx2": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_auto_is_bf16_only_where_the_cpu_has_it(
    monkeypatch: pytest.MonkeyPatch, known: dict[str, bool], wanted: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert product("auto") == wanted
    assert product("bf16") == torch.bfloat16
    assert product("fp32") == torch.float32
    assert library_versions()["cpu_precision"] == ("bf16" if wanted == torch.bfloat16 else "fp32")


def test_a_pytorch_that_cannot_tell_runs_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert product("auto") == torch.float32


def test_gpus_are_asked_and_other_devices_run_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for native in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        computes_in_bf16.cache_clear()
        assert computes_in_bf16("cuda") is native
    assert not computes_in_bf16("mps")
