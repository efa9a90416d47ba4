from __future__ import annotations

import copy
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.data.pairs import CaptionedImages, PairBatch
from clip_antidote.errors import DataError, UsageError
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.training.gradients import contrastive_backward
from clip_antidote.training.interrupt import held_interrupt
from clip_antidote.training.loop import TrainingConfig, train_contrastive
from clip_antidote.training.losses import multi_positive_info_nce
from clip_antidote.training.optim import build_adamw, warmup_cosine
from clip_antidote.training.perturb import signed_step

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


class Killed(BaseException):
    """Stands for what leaves no chance to save."""


def noise(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return (images + 0.1 * torch.rand(images.shape, generator=generator)).clamp(0, 1)


class Run:
    """A training that can be stopped at a step in several ways."""

    def __init__(self, model: OpenCLIPEncoder, state: Path | None = None) -> None:
        self.model = copy.deepcopy(model)
        self.pairs = batches(model)
        self.state = state
        self.started: list[int] = []

    def train(self, stop: str = "", at: int = -1) -> list[float]:
        def make(step: int) -> PairBatch:
            self.started.append(step)
            if step == at and stop == "before the step":
                raise KeyboardInterrupt
            if step == at and stop == "broken image":
                raise DataError("cannot read image")
            if step == at and stop == "Ctrl-C during the step":
                os.kill(os.getpid(), signal.SIGINT)
            return self.pairs.batch(step, batch_size=8, seed=0, augment=noise)

        def finished(step: int, loss: float) -> None:
            if step == at and stop == "killed":
                raise Killed
            if step == at and stop == "after the step":
                raise KeyboardInterrupt

        def inside(module: torch.nn.Module, arguments: Any) -> None:
            if self.started[-1] == at and stop == "inside the step":
                raise KeyboardInterrupt

        hook = self.model.model.ln_final.register_forward_pre_hook(inside)
        try:
            return train_contrastive(self.model, make, CONFIG, state_file=self.state, on_step=finished)
        finally:
            hook.remove()

    def saved_step(self) -> int:
        assert self.state is not None
        return int(torch.load(self.state, weights_only=True)["step"]) if self.state.exists() else 0


# How it is stopped, in which step, and how many steps are then done for good (a state is written every 3).
STOPS = [
    ("killed", 1, 0),
    ("killed", 3, 3),
    ("inside the step", 4, 3),
    ("before the step", 0, 0),
    ("before the step", 4, 4),
    ("broken image", 2, 2),
    ("after the step", 4, 5),
    ("Ctrl-C during the step", 1, 2),
    ("Ctrl-C during the step", 5, 6),
]


@pytest.mark.parametrize(("stop", "at", "done"), STOPS)
def test_stopped_and_resumed_equals_uninterrupted(
    stop: str, at: int, done: int, small_model: OpenCLIPEncoder, tmp_path: Path
) -> None:
    whole = Run(small_model)
    expected = whole.train()
    broken = Run(small_model, tmp_path / "state.pt")
    with pytest.raises({"killed": Killed, "broken image": DataError}.get(stop, KeyboardInterrupt)):
        broken.train(stop, at)
    assert broken.saved_step() == done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = Run(small_model, tmp_path / "state.pt")
    losses = resumed.train()
    assert resumed.started == list(range(done, 6)), "it goes on from the last saved step"
    assert losses == expected[done:]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_stopped_again_and_again_equals_uninterrupted(small_model: OpenCLIPEncoder, tmp_path: Path) -> None:
    whole = Run(small_model)
    whole.train()
    for stop, at in (("after the step", 1), ("killed", 4), ("Ctrl-C during the step", 4), ("before the step", 5)):
        with pytest.raises((Killed, KeyboardInterrupt)):
            Run(small_model, tmp_path / "state.pt").train(stop, at)
    last = Run(small_model, tmp_path / "state.pt")
    last.train()
    assert last.started == [5]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, last.model.state_dict()[name]), name


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_second_interrupt_does_not_wait() -> None:
    reached = []

    def work() -> None:
        with held_interrupt() as interrupted:
            reached.append(interrupted())
            ctrl_c()
            reached.append(interrupted())
            ctrl_c()
            reached.append(False)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == [False, True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_nobody_asked_for_comes_at_the_end() -> None:
    reached = []

    def work() -> None:
        with held_interrupt():
            ctrl_c()
            reached.append("end")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["end"]


def gradients(model: OpenCLIPEncoder, batch: PairBatch, chunks: int) -> tuple[float, dict[str, torch.Tensor]]:
    model = copy.deepcopy(model).train()
    loss = contrastive_backward(model, batch, chunks=chunks)
    return loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_the_gradient_is_that_of_the_loss(small_model: OpenCLIPEncoder) -> None:
    batch = make_batch(batches(small_model), 0)
    loss, found = gradients(small_model, batch, 1)
    features = small_model.encode_images(batch.images), small_model.encode_token_ids(batch.token_ids)
    expected = multi_positive_info_nce(*features, batch.match, small_model.logit_scale)
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-6)
    for name, parameter in small_model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("chunks", [2, 3, 100])
def test_accumulated_gradient_has_the_negatives_of_the_whole_batch(chunks: int, small_model: OpenCLIPEncoder) -> None:
    batch = make_batch(batches(small_model), 0)
    loss, expected = gradients(small_model, batch, 1)
    again, found = gradients(small_model, batch, chunks)
    assert again == pytest.approx(loss, abs=1e-5)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)
    halves = [PairBatch(batch.images[rows], batch.token_ids, batch.match[rows]) for rows in (slice(4), slice(4, 8))]
    apart = [gradients(small_model, half, 1)[1]["model.visual.proj"] for half in halves]
    assert not torch.allclose((apart[0] + apart[1]) / 2, expected["model.visual.proj"], rtol=1e-2), "not the same"


def test_batch_norm_counts_every_chunk_once(tiny: OpenCLIPEncoder, train_images: LabelledImages) -> None:
    images = train_images.subset([0, 500, 900, 1300]).tensor(tiny.image_size).float() / 255
    batch = PairBatch(images, tiny.tokenize(["a hat", "a shoe", "a dress", "a shirt"]), torch.eye(4).bool())
    model = copy.deepcopy(tiny).train()
    norm = next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert norm.num_batches_tracked is not None
    before = int(norm.num_batches_tracked)
    contrastive_backward(model, batch, chunks=2)
    assert int(norm.num_batches_tracked) == before + 2


def test_betas_and_eps_reach_the_optimizer(small_model: OpenCLIPEncoder) -> None:
    optimizer = build_adamw(small_model, lr=1e-3, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-8)
    assert all(group["betas"] == (0.9, 0.999) and group["eps"] == 1e-8 for group in optimizer.param_groups)
    config = TrainingConfig.build({"betas": [0.8, 0.999], "lr": 1e-2, "steps": 1, "batch_size": 8, "warmup": 0})
    other = config.model_copy(update={"betas": (0.9, 0.98), "eps": 1.0})
    weights = []
    for settings in (config, other):
        model = copy.deepcopy(small_model)
        train_contrastive(model, lambda step: make_batch(batches(small_model), step), settings)
        weights.append(model.model.visual.proj.detach())
    assert not torch.allclose(*weights)
    with pytest.raises(UsageError, match="betas"):
        TrainingConfig.build({"betas": [0.9, 1.0]})


def test_a_signed_step_by_hand() -> None:
    slope = torch.tensor([2.0, -0.1, 0.0, 5.0])
    start = torch.tensor([0.0, 0.0, 0.3, 0.45])
    moved = signed_step(lambda delta: (slope * delta).sum(), start, size=0.2, bound=0.5)
    assert moved.tolist() == pytest.approx([0.2, -0.2, 0.3, 0.5])
    assert not moved.requires_grad
    back = signed_step(lambda delta: (slope * delta).sum(), start, size=-0.2, bound=0.5)
    assert back.tolist() == pytest.approx([-0.2, 0.2, 0.3, 0.25])


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
