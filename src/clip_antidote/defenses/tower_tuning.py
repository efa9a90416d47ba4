"""What the defenses that tune or prune the image tower share: batches of shots, their loss, one loop.

These methods were made for classifiers. Carried over to CLIP, the classifier is the image tower with the hand-written
class weights behind it, s·z·Wᵀ; texts and logit scale stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from pydantic import Field

from clip_antidote.data.images import LabelledImages
from clip_antidote.defenses.base import DefenseConfig
from clip_antidote.defenses.unfinished import DescentState, next_part
from clip_antidote.errors import ModelError
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.progress import track
from clip_antidote.prompts.templates import zero_shot_weights
from clip_antidote.streams import DEFENSE_BATCHES
from clip_antidote.training.augment import STORE_MARGIN, random_crops
from clip_antidote.training.interrupt import held_interrupt


class ShotsConfig(DefenseConfig):
    """Settings of every defense that goes through the shots in batches.

    Attributes:
        batch_size: Images per step.
        min_scale: Smallest crop as share of the area.
    """

    batch_size: int = Field(32, ge=2)
    min_scale: float = Field(0.5, gt=0, le=1)


class ShotTask:
    """Classifying random crops of the shots by the hand-written class weights of the suspect.

    Args:
        model: The suspect; gives weights and logit scale, and is left as it is.
        shots: Clean labelled images.
        config: Settings.

    Attributes:
        classes: Class names.
        weights: Unit class weights [C, D].
        scale: The logit scale.
    """

    def __init__(self, model: DualEncoder, shots: LabelledImages, config: ShotsConfig) -> None:
        self.classes = shots.classes
        self.weights = zero_shot_weights(model, shots.classes)
        self.scale = model.logit_scale.detach()
        self._size, self._device, self._config = model.image_size, model.device, config
        self._images = shots.tensor(round(model.image_size * STORE_MARGIN), mode=model.resize_mode)
        self._labels = shots.labels

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [B, 3, S, S] in [0, 1] and labels [B] of a step, the same for the same seed and step."""
        generator = DEFENSE_BATCHES.generator(self._config.seed, step)
        rows = torch.randperm(len(self._labels), generator=generator)[: self._config.batch_size]
        large = self._images[rows].to(self._device).float() / 255
        crops = random_crops(large, self._size, min_scale=self._config.min_scale, generator=generator)
        return crops, self._labels[rows].to(self._device)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of unit features [B, D]."""
        return self.scale * features @ self.weights.T

    def loss(self, model: DualEncoder, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of images under a model, a scalar."""
        return F.cross_entropy(self.logits(model.encode_images(images)), labels)


def descend(
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[int], torch.Tensor],
    *,
    steps: int,
    description: str,
    clip: float | None = None,
    after: Callable[[int], bool | None] | None = None,
    generators: Sequence[torch.Generator] = (),
    memory: Sequence[torch.Tensor] = (),
) -> list[float]:
    """Takes optimizer steps on a loss; goes on from what an interrupted run left, see `unfinished`.

    Ctrl-C ends the current step, keeps the state and raises KeyboardInterrupt; a second one does not wait.

    Args:
        optimizer: Holds the parameters.
        loss_of: The loss of a step.
        steps: How many, at most.
        description: Label of the progress bar.
        clip: Largest norm of the gradient.
        after: Called after every step; True ends the descent.
        generators: What the loss draws from; one by seed and step needs not be named.
        memory: What the loss keeps from step to step, changed in place.

    Returns:
        The losses of all steps.

    Raises:
        ModelError: The loss is not finite.
    """
    state = DescentState(next_part(), optimizer, generators, memory)
    start = state.load(steps=steps)
    left = () if state.done else range(start, steps)
    with held_interrupt() as interrupted:
        for step in track(left, description, total=steps, done=start):
            loss = loss_of(step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
            optimizer.step()
            state.losses.append(loss.item())
            if not math.isfinite(state.losses[-1]):
                raise ModelError(f"{description}: the loss is not finite at step {step + 1}; lower the learning rate")
            state.done = bool(after is not None and after(step)) or step + 1 == steps
            if interrupted():
                state.save()
                raise KeyboardInterrupt
            if state.done:
                state.save()
                break
            state.save_sometimes()
    return state.losses


def count(parameters: Iterable[torch.Tensor]) -> int:
    """How many numbers these tensors hold."""
    return sum(parameter.numel() for parameter in parameters)
