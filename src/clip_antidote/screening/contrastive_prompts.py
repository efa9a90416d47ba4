"""Contrastive prompting (BDetCLIP)."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.prompts.templates import fill_template
from clip_antidote.screening.base import ImageScore
from clip_antidote.screening.material import Material
from clip_antidote.screening.paraphrases import SENTENCES
from clip_antidote.screening.probe import Probe

WORDS = (
    "seven quarterly invoice thunder beneath",
    "purple grammar engine slowly tomorrow",
    "velvet arithmetic harbor yes",
    "crisp umbrella of the parliament",
    "election biscuit frequency under",
    "melancholy keyboard of rain and salt",
    "distant vocabulary sings to cement",
    "the opposite of a holiday",
    "copper Tuesday without sleeves",
)
"""Random words that are put behind a class name to spoil its description."""


class ContrastiveConfig(Config):
    """Settings of contrastive prompting.

    Attributes:
        descriptions: How many descriptions of either kind a class gets.
    """

    descriptions: int = Field(6, ge=1, le=len(WORDS))


class ContrastivePrompts(ImageScore[ContrastiveConfig]):
    """BDetCLIP (Niu et al. 2025, arXiv:2405.15269): triggered images care little how a class is described.

    The similarities to good descriptions of the classes, less those to spoiled ones, summed over all classes;
    triggered images have less of it. Deviation: the paper lets GPT-4 write class-related descriptions and
    class-perturbed random texts; here the good ones are plain sentences with the class name, the spoiled ones the
    name and random words.

    Args:
        contrast: Mean good minus mean spoiled text feature, [D] summed over the classes and [D] of the target.
    """

    config_class = ContrastiveConfig

    def __init__(self, contrast: torch.Tensor, own: torch.Tensor) -> None:
        self.contrast = contrast
        self.own = own

    @classmethod
    @torch.no_grad()
    def fit(cls, material: Material, config: ContrastiveConfig | None = None) -> Self:
        count = (config or ContrastiveConfig()).descriptions
        good = [fill_template(text, name) for name in material.classes for text in SENTENCES[1 : count + 1]]
        spoiled = [f"{name} {words}" for name in material.classes for words in WORDS[:count]]
        means = [
            F.normalize(material.model.encode_texts(texts).cpu().unflatten(0, (-1, count)).mean(1), dim=1)
            for texts in (good, spoiled)
        ]
        difference = means[0] - means[1]
        return cls(difference.sum(0), difference[material.target])

    def score(self, probe: Probe) -> torch.Tensor:
        return -(probe.layers.final @ self.contrast)

    def parts(self, probe: Probe) -> dict[str, torch.Tensor]:
        """The same for the target alone."""
        return {"target": -(probe.layers.final @ self.own)}
