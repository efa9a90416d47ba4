"""Dummy triggers of one target: inverted together, a bank per family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from clip_antidote.inversion.config import ANSWERS
from clip_antidote.inversion.families import AdditiveBank, DummyBank, MaskBank
from clip_antidote.inversion.invert import Inverter
from clip_antidote.triggers.base import Trigger


@dataclass(frozen=True)
class Dummy:
    """A trigger that stands in for the attacker's, and how well it does on clean views.

    Attributes:
        trigger: The trigger.
        family: Name of its family.
        target: Class index of its hypothesis.
        flip_rate: Share of views of other classes it sends to the target; None where it was not measured.
        size: Mean of the mask, or mean absolute change, in [0, 1]; None where it was not measured.
    """

    trigger: Trigger
    family: str
    target: int
    flip_rate: float | None = None
    size: float | None = None

    @property
    def answers(self) -> bool:
        """Whether it sends nearly all images to the target; not, where that was not measured."""
        return self.flip_rate is not None and self.flip_rate >= ANSWERS


def make_bank(family: str, strengths: Sequence[float], image_size: int, seed: int) -> DummyBank:
    """Makes fresh dummy triggers of a family ("mask": sparsities, "additive": bounds)."""
    generator = torch.Generator().manual_seed(seed)
    bank_class = MaskBank if family == "mask" else AdditiveBank
    return bank_class(strengths, image_size, generator=generator)


def measure_bank(inverter: Inverter, bank: DummyBank, hypotheses: torch.Tensor, *, rows: torch.Tensor) -> list[Dummy]:
    """Measures every trigger of a bank on the given views, and takes it out of the bank."""
    stats = inverter.stats(bank, hypotheses, rows=rows)
    return [
        Dummy(bank.trigger(i), bank.name, int(target), float(stats.flip_rate[i]), float(stats.size[i]))
        for i, target in enumerate(hypotheses)
    ]


def invert_bank(inverter: Inverter, target: int, *, rows: torch.Tensor, seed: int) -> list[Dummy]:
    """Inverts the final bank of one target: every strength of every family.

    Args:
        inverter: Optimizes and measures; its settings name families, strengths and steps.
        target: Class index of the hypothesis.
        rows: Views on which the dummies are measured.
        seed: Seed of where the triggers start.
    """
    config, dummies = inverter.config, []
    for family in config.families:
        strengths = config.sparsities if family == "mask" else config.bounds
        bank = make_bank(family, strengths, inverter.image_size, seed)
        hypotheses = torch.full((len(bank),), target)
        inverter.run(bank, hypotheses, steps=config.final_steps, description=f"inverting triggers ({family})")
        dummies += measure_bank(inverter, bank, hypotheses, rows=rows)
    return dummies
