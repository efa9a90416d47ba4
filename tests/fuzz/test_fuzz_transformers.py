"""Mutated folders of a transformers model: configuration, preprocessing, tokenizer and weights."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from base import Base, make_transformers
from guard import fuzz
from inputs import change_transformers
from mutations import mutate_bytes

from clip_antidote.models import load_model, read_checkpoint

pytest.importorskip("transformers")


def test_folders_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Base(tmp_path / "base")
    make_transformers(base)

    def case(draw: random.Random, folder: Path) -> Callable[[], object]:
        name = "hf_clip" if draw.random() < 0.25 else "hf_siglip"  # CLIP's large vocabulary takes its time
        shutil.copytree(base.folder / name, folder, dirs_exist_ok=True)
        (folder / "evil.py").write_text("raise SystemExit('foreign code ran')\n")
        change_transformers(folder, name, draw)
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
