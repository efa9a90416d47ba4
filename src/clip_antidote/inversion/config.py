"""Settings of stage 1."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clip_antidote.config import Config


class InversionConfig(Config):
    """Settings of trigger inversion; see docs/method.md for why these defaults.

    Attributes:
        temperature: τ of the contrastive loss.
        lr: Learning rate of Adam on the trigger's parameters.
        batch_size: Images per step and hypothesis.
        families: Families of dummy triggers, in the order of use.
        screen_sparsity: λ on the mean of the mask while hypotheses are compared.
        screen_bound: Largest change of a pixel of additive dummies while hypotheses are compared.
        sparsities: λ of the masks in the final bank, one dummy each.
        bounds: Largest change of a pixel of the additive dummies in the final bank, one dummy each.
        shortlist: How many classes are tried as target, those whose text and images disagree most first.
        far: How many more are tried, to be guarded: those whose text is farthest from images of any class.
        screen_steps: Steps given to every hypothesis of the shortlist.
        final_steps: Steps given to the final bank of the suspected target.
        score_threshold: A class is reported as the target above this evidence (−log10 of what chance would do).
        further_threshold: What a second and a third target need; more, since poison disturbs other classes too.
        max_targets: Most classes that are reported as targets.
        guarded: How many classes get dummy triggers and a gate, reported or not: those reported, then the most
            suspicious others. Of few classes at most a tenth, or one, unless more are reported.
        guard_steps: Steps beyond those of the screening for dummies of classes that are guarded but not reported.
    """

    temperature: float = Field(0.1, gt=0)
    lr: float = Field(0.05, gt=0)
    batch_size: int = Field(32, ge=2)
    families: tuple[Literal["mask", "additive"], ...] = ("mask", "additive")
    screen_sparsity: float = Field(20.0, ge=0)
    screen_bound: float = Field(16 / 255, gt=0, le=1)
    sparsities: tuple[float, ...] = (5.0, 20.0)
    bounds: tuple[float, ...] = (16 / 255, 32 / 255)
    shortlist: int = Field(10, ge=1)
    far: int = Field(3, ge=0)
    screen_steps: int = Field(40, ge=1)
    final_steps: int = Field(150, ge=1)
    score_threshold: float = 2.0
    further_threshold: float = 4.0
    max_targets: int = Field(3, ge=1)
    guarded: int = Field(5, ge=0)
    guard_steps: int = Field(40, ge=1)
