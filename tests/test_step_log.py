"""Logs of a training: every step is handed on, once, and only where it was asked for."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clip_antidote.data.pairs import PairBatch
from clip_antidote.errors import UnsupportedError, UsageError
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.training.loop import TrainingConfig, train_contrastive
from clip_antidote.training.step_log import log_step, logged_to
from conftest import Cli


def test_every_step_of_a_training_is_logged(small_model: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, Mapping[str, float]]] = []
    ended: list[bool] = []
    run = SimpleNamespace(log=lambda values, step: sent.append((step, values)), finish=lambda: ended.append(True))
    asked: list[str] = []

    def init(project: str) -> SimpleNamespace:
        asked.append(project)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    tokens = small_model.tokenize(["a cat", "a dog", "a hat", "a shoe"])
    images = torch.rand(4, 3, small_model.image_size, small_model.image_size)
    batch = PairBatch(images, tokens, torch.eye(4, dtype=torch.bool))
    config = TrainingConfig(steps=3, batch_size=4, warmup=1, precision="fp32")
    with logged_to("wandb:mine"):
        losses = train_contrastive(small_model, lambda step: batch, config)
    log_step(9, loss=1.0)
    assert asked == ["mine"]
    assert ended == [True]
    assert [step for step, _ in sent] == [0, 1, 2], "and nothing outside of the block"
    assert [values["loss"] for _, values in sent] == losses
    assert sent[0][1]["learning_rate"] > sent[-1][1]["learning_rate"] > 0
    assert sent[-1][1]["logit_scale"] == pytest.approx(float(small_model.logit_scale))


@pytest.mark.parametrize("where", ["tensorboard", "tensorboard:", "folder", "csv:x"])
def test_a_wrong_place_is_one_sentence(where: str, cli: Cli, problem: str, model_folder: str) -> None:
    done = cli("attack", model_folder, "--data", problem, "--target", "cat", "--steps", 1, "--log", where)
    assert done.status == 4
    assert f"not '{where}'" in done.err


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_a_package_that_is_missing_is_one_sentence(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[-1] in ("tensorboard", "wandb"):
            raise ImportError
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnsupportedError, match=rf"clip-antidote\[{kind}\]"), logged_to(f"{kind}:x"):
        pass
    with pytest.raises(UsageError), logged_to("elsewhere"):
        pass


def test_tensorboard_can_read_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="no events were written: tensorboard (extra) is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with logged_to(f"tensorboard:{tmp_path}"):
        for step, loss in enumerate((2.0, 1.5, 1.0)):
            log_step(step, loss=loss)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 2.0), (1, 1.5), (2, 1.0)]
