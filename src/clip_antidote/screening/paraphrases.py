"""Distance of an image from the paraphrases of the target's text (Subspace Detection)."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES, fill_template
from clip_antidote.screening.base import ImageScore
from clip_antidote.screening.material import Material
from clip_antidote.screening.probe import Probe

SENTENCES = (
    "{}",
    "this is a {}.",
    "there is a {} in this picture.",
    "someone took a picture of a {}.",
    "here you can see a {}.",
    "a {} seen up close.",
    "a {}, photographed outside.",
    "an image which shows a {}.",
    "what you see is a {}.",
    "my favorite {}.",
    "look at this {}!",
    "a {} and nothing else.",
)
"""Ways of saying it that are not among the templates of the hand-written classifier."""


class ParaphraseConfig(Config):
    """Settings of the subspace.

    Attributes:
        rank: Dimensions of the subspace of the paraphrases.
    """

    rank: int = Field(8, ge=1)


class Paraphrases(ImageScore[ParaphraseConfig]):
    """How far an image is from what paraphrases of the target's text span, beside how near it is to the text itself.

    After "Test-Time Poisoned Sample Detection by Exploiting Shallow Malicious Matching in Backdoored CLIP" (Subspace
    Detection, ICLR 2026): a poisoned image matches the target's text and not its semantic neighborhood. Deviations:
    the paraphrases are the 80 templates and twelve sentences instead of a language model's; the distance is to the
    affine subspace of their first principal directions instead of to a region sampled within it. The paper's abstract
    alone was at hand.

    Args:
        text: Unit feature of the target's text [D].
        mean: Mean of the paraphrases [D].
        basis: Orthonormal directions of the subspace [D, rank].
    """

    config_class = ParaphraseConfig

    def __init__(self, text: torch.Tensor, mean: torch.Tensor, basis: torch.Tensor) -> None:
        self.text = text
        self.mean = mean
        self.basis = basis

    @classmethod
    @torch.no_grad()
    def fit(cls, material: Material, config: ParaphraseConfig | None = None) -> Self:
        settings = config or ParaphraseConfig()
        name = material.classes[material.target]
        texts = [fill_template(template, name) for template in (*IMAGENET_TEMPLATES, *SENTENCES)]
        features = material.model.encode_texts(texts).cpu()
        mean = features.mean(0)
        directions = torch.linalg.svd(features - mean, full_matrices=False)[2]
        return cls(material.weights[material.target], mean, directions[: settings.rank].T)

    def score(self, probe: Probe) -> torch.Tensor:
        parts = self.parts(probe)
        return parts["distance"] + parts["text"]

    def parts(self, probe: Probe) -> dict[str, torch.Tensor]:
        """The distance from the subspace, and the cosine to the text."""
        rest = probe.layers.final - self.mean
        rest = rest - rest @ self.basis @ self.basis.T
        return {"distance": rest.norm(dim=1), "text": probe.layers.final @ self.text}
