"""`clip-antidote train` goes on with its own unfinished work and with nobody else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clip_antidote.jobs import train
from clip_antidote.models import load_model
from clip_antidote.training.pretrain import PretrainConfig
from conftest import SMALL, Cli, draw_photos


@pytest.fixture
def architecture(tmp_path: Path) -> Path:
    file = tmp_path / "open_clip_config.json"
    file.write_text(json.dumps({"model_cfg": SMALL, "preprocess_cfg": {}}))
    return file


def test_another_configuration_does_not_go_on_with_it(
    architecture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed: list[bool] = []

    def interrupted(model: Any, data: Path, config: PretrainConfig, *, state_file: Path) -> None:
        resumed.append(state_file.exists())
        state_file.parent.mkdir(parents=True, exist_ok=True)
        state_file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "pretrain", interrupted)
    first, second = PretrainConfig(seed=0), PretrainConfig(store_size=40)
    for config in (first, second, first, PretrainConfig(seed=1)):
        with pytest.raises(KeyboardInterrupt):
            train.run_train(architecture, tmp_path / "problem", tmp_path / "out", config)
    with pytest.raises(KeyboardInterrupt):
        train.run_train(architecture, tmp_path / "elsewhere", tmp_path / "out", first)
    assert resumed == [False, False, True, False, False]
    assert not (tmp_path / "out").exists()


def test_the_command_trains_and_cleans_up(architecture: Path, cli: Cli, tmp_path: Path) -> None:
    draw_photos(tmp_path / "problem" / "train")
    (tmp_path / "short.yaml").write_text("training: {steps: 2, batch_size: 4, precision: fp32}\nstore_size: 36\n")
    arguments = ["--architecture", architecture, "--data", "problem", "--out", "model", "--config", "short.yaml"]
    ran = cli("train", *arguments)
    assert ran.status == 0
    assert "local-dir:model" in ran.out
    assert load_model(f"local-dir:{tmp_path / 'model'}").image_size == 32
    assert not list(tmp_path.glob(".model*")), "nothing of the work is left"
