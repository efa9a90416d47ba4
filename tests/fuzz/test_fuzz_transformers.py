"""Mutated folders of a transformers model: configuration, preprocessing, tokenizer and weights."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from guard import fuzz
from mutations import mutate_bytes, mutate_json

from clip_antidote.models import load_model, read_checkpoint

pytest.importorskip("transformers")

from hf_models import write_siglip


def test_folders_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "base"
    write_siglip(base, second=True)
    load_model(f"hf:{base}").encode_texts(["a cat"])  # what is imported on first use looks for libraries
    files = [
        "config.json",
        "preprocessor_config.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "model.safetensors",
    ]

    def case(draw: random.Random, folder: Path) -> Callable[[], object]:
        shutil.copytree(base, folder, dirs_exist_ok=True)
        file = folder / draw.choice(files)
        if file.suffix == ".json":
            file.write_bytes(mutate_json(json.loads(file.read_text()), draw))
        else:
            file.write_bytes(mutate_bytes(file.read_bytes(), draw))
        monkeypatch.setattr(tempfile, "tempdir", str(folder))

        def read() -> None:
            model = load_model(f"hf:{folder}")
            with torch.no_grad():
                model.encode_images(torch.rand(1, 3, model.image_size, model.image_size))
                model.encode_texts(["a cat", "a dog"])

        return read

    fuzz(60, tmp_path / "cases", case)


@pytest.mark.filterwarnings("ignore")
def test_archives_of_torchscript(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    torch.jit.save(torch.jit.script(module), str(tmp_path / "base.pt"))
    content = (tmp_path / "base.pt").read_bytes()
    assert set(read_checkpoint(tmp_path / "base.pt")) == set(module.state_dict())

    def case(draw: random.Random, folder: Path) -> Callable[[], object]:
        file = folder / "x.pt"
        file.write_bytes(mutate_bytes(content, draw))
        return lambda: read_checkpoint(file)

    fuzz(150, tmp_path / "cases", case)
