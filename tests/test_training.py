from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from clip_antidote.data.pairs import CaptionedImages, PairBatch
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.training.loop import TrainingConfig, train_contrastive
from clip_antidote.training.optim import build_adamw, warmup_cosine

CONFIG = TrainingConfig(steps=6, batch_size=8, lr=1e-3, warmup=2, precision="fp32", checkpoint_every=3)


def batches(model: OpenCLIPEncoder) -> CaptionedImages:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(24) % 4
    return CaptionedImages(
        images=torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8, generator=generator),
        token_ids=model.tokenize(["a hat", "a shoe", "a dress", "a shirt"]).int(),
        first=labels,
        count=torch.ones(24, dtype=torch.long),
        groups=labels,
    )


def make_batch(pairs: CaptionedImages, step: int) -> PairBatch:
    return pairs.batch(step, batch_size=8, seed=0, augment=lambda images, _: images)


def test_training_lowers_the_loss(small_model: OpenCLIPEncoder) -> None:
    pairs = batches(small_model)
    config = CONFIG.model_copy(update={"steps": 40, "lr": 3e-3})
    losses = train_contrastive(small_model, lambda step: make_batch(pairs, step), config)
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.1
    assert not small_model.training
    assert small_model.logit_scale <= 100.0 + 1e-4


def test_killed_and_resumed_equals_uninterrupted(small_model: OpenCLIPEncoder, tmp_path: Path) -> None:
    whole, broken = copy.deepcopy(small_model), copy.deepcopy(small_model)
    pairs = batches(small_model)
    expected = train_contrastive(whole, lambda step: make_batch(pairs, step), CONFIG)

    def stop(step: int, loss: float) -> None:
        if step == 4:
            raise KeyboardInterrupt

    state = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        train_contrastive(broken, lambda step: make_batch(pairs, step), CONFIG, state_file=state, on_step=stop)
    resumed = copy.deepcopy(small_model)
    losses = train_contrastive(resumed, lambda step: make_batch(pairs, step), CONFIG, state_file=state)
    assert losses == pytest.approx(expected[3:], abs=1e-6), "it goes on from the last saved step"
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, resumed.state_dict()[name], atol=1e-6), name


def test_warmup_cosine_by_hand() -> None:
    factors = [warmup_cosine(step, steps=12, warmup=2) for step in (0, 1, 2, 7, 12)]
    assert factors == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.0])


def test_biases_norms_and_logit_scale_are_not_decayed(small_model: OpenCLIPEncoder) -> None:
    decayed, plain = build_adamw(small_model, lr=1e-3, weight_decay=0.1).param_groups
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert any(p is small_model.log_logit_scale for p in plain["params"])
    count = len(decayed["params"]) + len(plain["params"])
    assert count == len(list(small_model.parameters()))
