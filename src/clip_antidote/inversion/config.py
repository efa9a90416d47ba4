"""Settings of stage 1."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clip_antidote.config import Config

ANSWERS = 0.9
"""Share of the images that a dummy has to send to its class, so that the gate takes notice of it."""

CONFIRMS = 0.8
"""Share of the images that the loudest form has to send to a class, so that the class is accused.

As much as the implant check asks of the attacks that take least well.
"""


class SurveyConfig(Config):
    """Settings of the survey of all classes; docs/method.md says what they are for.

    The evidence was fitted with them: other values make it unreliable.

    Attributes:
        steps: Optimizer steps given to every class and form of trigger, see `detection.forms`.
        batch_size: Images per step and class.
        temperature: Temperature of the cross-entropy that is minimized.
        patch_lr: Learning rate of Adam on opaque patches.
        faint_lr: Learning rate on faint patterns.
        curve_lr: Learning rate on stripes and colors, which have few parameters.
        patch_side: Side of the patch in the center, as share of the image's.
        corner_side: Side of the patches in the corners.
        faint_bound: Largest change of a pixel by a faint pattern.
        stripe_bound: Largest change of a pixel by stripes.
        color_bound: Largest change of a channel by color curves.
        sample: Views on which every trigger is measured.
        wave_most: Highest frequency of the plane waves that are tried, in periods over the side.
        wave_bound: Largest change of a pixel by a wave.
        noise_bound: Standard deviation of the random patterns that are tried.
        warp_shift: Mean displacement by the random warps that are tried, as share of the side.
        pixels: Pixels per step of all classes that are optimized together; bounds the memory.
    """

    steps: int = Field(12, ge=1)
    batch_size: int = Field(4, ge=2)
    temperature: float = Field(0.05, gt=0)
    patch_lr: float = Field(0.8, gt=0)
    faint_lr: float = Field(0.15, gt=0)
    curve_lr: float = Field(0.3, gt=0)
    patch_side: float = Field(0.3, gt=0, le=1)
    corner_side: float = Field(0.2, gt=0, le=0.5)
    faint_bound: float = Field(10 / 255, gt=0, le=1)
    stripe_bound: float = Field(0.2, gt=0, le=1)
    color_bound: float = Field(0.2, gt=0, le=1)
    sample: int = Field(32, ge=2)
    wave_most: int = Field(8, ge=1)
    wave_bound: float = Field(32 / 255, gt=0, le=1)
    noise_bound: float = Field(16 / 255, gt=0, le=1)
    warp_shift: float = Field(0.02, gt=0, le=1)
    pixels: int = Field(1024 * 64 * 64, ge=1)


class InversionConfig(Config):
    """Settings of stage 1: the survey of all classes and trigger inversion; docs/method.md says why these defaults.

    Attributes:
        temperature: τ of the contrastive loss.
        lr: Learning rate of Adam on the trigger's parameters.
        batch_size: Images per step and hypothesis.
        families: Families of dummy triggers, in the order of use.
        survey: The survey of all classes.
        guard_sparsity: λ on the mean of the mask of a class that is guarded but not reported.
        guard_bound: Largest change of a pixel of its additive dummy.
        sparsities: λ of the masks in the final bank, one dummy each.
        bounds: Largest change of a pixel of the additive dummies in the final bank, one dummy each.
        final_steps: Steps given to the final bank of the suspected target.
        form_steps: Steps given to one more dummy of a suspected target, of the form of trigger that reaches it most
            easily in the survey; 0 for none.
        alarm: A target is reported where the p-value of the model is at most this.
        max_targets: Most classes that are reported as targets; a further one needs more evidence than
            blameless classes of poisoned models have.
        guarded: How many classes get dummy triggers and a gate, reported or not: those reported, then the most
            suspicious others. Of few classes at most a tenth, or one, unless more are reported.
        guard_steps: Steps given to dummies of classes that are guarded but not reported.
    """

    temperature: float = Field(0.1, gt=0)
    lr: float = Field(0.05, gt=0)
    batch_size: int = Field(32, ge=2)
    families: tuple[Literal["mask", "additive"], ...] = Field(("mask", "additive"), min_length=1)
    survey: SurveyConfig = SurveyConfig()
    guard_sparsity: float = Field(20.0, ge=0)
    guard_bound: float = Field(16 / 255, gt=0, le=1)
    sparsities: tuple[float, ...] = (5.0, 20.0)
    bounds: tuple[float, ...] = (16 / 255, 32 / 255)
    final_steps: int = Field(150, ge=1)
    form_steps: int = Field(80, ge=0)
    alarm: float = Field(0.05, gt=0, le=1)
    max_targets: int = Field(3, ge=1)
    guarded: int = Field(5, ge=0)
    guard_steps: int = Field(80, ge=1)
