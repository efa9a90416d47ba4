"""Stage 1: contrastive inversion of dummy triggers for given target hypotheses."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from clip_antidote.errors import ModelError
from clip_antidote.inversion.config import InversionConfig
from clip_antidote.inversion.families import DummyBank
from clip_antidote.inversion.objective import inversion_loss
from clip_antidote.inversion.views import Observation
from clip_antidote.precision import autocast
from clip_antidote.progress import track


@dataclass(frozen=True)
class InversionStats:
    """How well a bank of dummy triggers does on a sample of views.

    Attributes:
        loss: Contrastive loss without the size prior [H].
        flip_rate: Share of images of other classes that are called the hypothesis [H].
        size: Size of the triggers [H].
        objective: Loss plus weighted size [H].
    """

    loss: torch.Tensor
    flip_rate: torch.Tensor
    size: torch.Tensor
    objective: torch.Tensor


class Inverter:
    """Optimizes a bank of dummy triggers against a frozen model.

    For the hypothesis "the target is c", an image x of class y is pulled toward the text of c and
    pushed away from the text of its own class and from its own clean feature (docs/method.md).

    Args:
        seen: The frozen model, its clean views and the class weights in force.
        config: Settings.
        generator: CPU generator of the batches.
    """

    def __init__(self, seen: Observation, config: InversionConfig, *, generator: torch.Generator) -> None:
        self.model = seen.model
        self.weights = seen.weights.to(seen.model.device)
        self.pool = seen.pool
        self.precision = seen.precision
        self.config = config
        self.generator = generator

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.model.image_size

    def positives(self, triggered: torch.Tensor, clean: torch.Tensor, hypotheses: torch.Tensor) -> torch.Tensor:
        """What triggered images are pulled to: the text of the hypothesis.

        Args:
            triggered: Unit features of triggered images [H, b, D], with their gradient.
            clean: Unit features of the same images without trigger [b, D].
            hypotheses: Class index of every trigger [H].

        Returns:
            Unit features [H or 1, b or 1, P, D].
        """
        return self.weights[hypotheses][:, None, None, :]

    def negatives(self, labels: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """What triggered images are pushed from: the text of their class [b] and their own clean feature [b, D].

        Returns:
            Unit features [1, b, Q, D].
        """
        return torch.stack([self.weights[labels], clean], dim=1)[None]

    def _losses(
        self, bank: DummyBank, hypotheses: torch.Tensor, rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns losses, flips and validity, each [H, b]."""
        device = self.model.device
        images = self.pool.images[rows].to(device).float() / 255
        labels = self.pool.labels[rows].to(device)
        clean = self.pool.features[rows].to(device)
        count, size = len(hypotheses), len(rows)
        triggered = bank.apply_all(images.expand(count, *images.shape))
        with autocast(device, self.precision):
            features = self.model.encode_images(triggered.flatten(0, 1)).view(count, size, -1)
        positives = self.positives(features, clean, hypotheses).expand(count, size, -1, -1)
        negatives = self.negatives(labels, clean).expand(count, -1, -1, -1)
        loss = inversion_loss(features, positives, negatives, temperature=self.config.temperature)
        flipped = (features @ self.weights.T).argmax(-1) == hypotheses[:, None]
        return loss, flipped, labels[None] != hypotheses[:, None]

    def run(self, bank: DummyBank, hypotheses: torch.Tensor, *, steps: int, description: str) -> DummyBank:
        """Optimizes the bank in place for `steps` steps, all hypotheses together."""
        hypotheses = hypotheses.to(self.model.device)
        bank.to(self.model.device)
        optimizer = torch.optim.Adam(bank.parameters(), lr=self.config.lr)
        with self.model.frozen():
            for step in track(range(steps), description, total=steps):
                rows = torch.randint(len(self.pool), (self.config.batch_size,), generator=self.generator)
                loss, _, valid = self._losses(bank, hypotheses, rows)
                mean = (loss * valid).sum(1) / valid.sum(1).clamp_min(1)
                total = (mean + bank.penalty()).sum()
                if self.model.device.type == "cpu":  # elsewhere it would wait for the device; `stats` looks there
                    self._check(total, description, step)
                optimizer.zero_grad(set_to_none=True)
                total.backward()
                optimizer.step()
        return bank

    def _check(self, values: torch.Tensor, description: str, step: int | None = None) -> None:
        """Stops where the model or the settings leave no numbers to go on with."""
        if not bool(values.isfinite().all()):
            where = "at the end" if step is None else f"at step {step + 1}"
            raise ModelError(
                f"{description}: the loss is not finite {where}; look at the model, or at the settings of inversion "
                f"(lr is {self.config.lr:g}, temperature {self.config.temperature:g})"
            )

    @torch.no_grad()
    def stats(self, bank: DummyBank, hypotheses: torch.Tensor, *, rows: torch.Tensor) -> InversionStats:
        """Measures a bank on the given views."""
        hypotheses = hypotheses.to(self.model.device)
        sums = [torch.zeros(len(hypotheses), device=self.model.device) for _ in range(3)]
        for part in rows.split(self.config.batch_size):
            loss, flipped, valid = self._losses(bank, hypotheses, part)
            for total, value in zip(sums, (loss * valid, flipped & valid, valid), strict=True):
                total += value.sum(1)
        loss, flips, count = sums[0], sums[1], sums[2].clamp_min(1)
        size = bank.size()
        mean = loss / count
        self._check(mean, "measuring triggers")
        return InversionStats(
            loss=mean.cpu(),
            flip_rate=(flips / count).cpu(),
            size=size.cpu(),
            objective=(mean + bank.penalty()).cpu(),
        )
