"""What a defense needs and what it changes, as data: light enough for `ls`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clip_antidote.config import Config

Part = Literal["prompts", "image tower", "text tower", "input"]
"""What of a suspect a defense may change."""

NAMES_OF_NEEDS = {
    "vit": "a ViT image tower",
    "norms": "normalization layers with a scale in the image tower",
    "stages": "an image tower with known stages or blocks",
    "projection": "an image tower that ends with a linear projection",
    "base": "a trusted base model (--base)",
    "truth": "the true trigger and target (an oracle)",
}
"""The needs that are there or not, each in words."""


class Needs(Config):
    """What must be there for a defense to run; it refuses where something is missing.

    Attributes:
        vit: A ViT image tower, into whose blocks prompts can be put.
        norms: Normalization layers with a scale in the image tower, whose channels can be switched off.
        stages: An image tower whose stages, or blocks, are known, so that their outputs can be compared.
        projection: An image tower that ends with a linear projection to the common feature space.
        base: A model of the same architecture that is trusted, such as the public one the suspect was made from.
        truth: The true trigger and target: an oracle.
        shots: Clean images of every class, at least.
        images: Clean images in all, at least.
    """

    vit: bool = False
    norms: bool = False
    stages: bool = False
    projection: bool = False
    base: bool = False
    truth: bool = False
    shots: int = Field(1, ge=0)
    images: int = Field(0, ge=0)

    def in_words(self) -> list[str]:
        """The needs, each in a few words."""
        named = [text for key, text in NAMES_OF_NEEDS.items() if getattr(self, key)]
        if self.images > 1:
            named.append(f"at least {self.images} clean images")
        if self.shots > 1:
            named.append(f"at least {self.shots} clean images per class")
        if self.shots == 1:
            named.append("a clean image per class")
        return named


class Profile(Config):
    """What is known about a defense without running it.

    Attributes:
        paper: Authors, year and title of the paper, or what it is.
        arxiv: Number of the paper on arXiv, where it has one.
        changes: What of the suspect it changes; empty for none.
        needs: What it needs.
        differs: How it differs from the paper, in a sentence.
    """

    paper: str
    arxiv: str | None = Field(None, pattern=r"^\d{4}\.\d{4,5}$")
    changes: tuple[Part, ...]
    needs: Needs = Needs()
    differs: str

    def changed(self) -> str:
        """What it changes, in words."""
        return ", ".join(self.changes) or "nothing"
