"""Settings of stage 1."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clip_antidote.config import Config


class SurveyConfig(Config):
    """Settings of the two passes over the classes; docs/method.md says what they are for.

    The evidence was fitted with them: other values make it unreliable.

    Attributes:
        steps: Optimizer steps given to every class and family.
        lr: Learning rate of Adam, larger than that of the search since the steps are few.
        batch_size: Images per step and class.
        sample: Views on which every trigger is measured.
        shortlist: How many of the most suspicious classes get a second, longer pass.
        second_steps: Optimizer steps of the second pass.
        second_lr: Its learning rate.
        second_batch: Its images per step and class.
        second_sparsity: λ of its masks, so large that only a small patch pays.
        second_bound: Largest change of a pixel of its additive triggers, so small that only a real one is led far.
        wave_most: Highest frequency of the plane waves that are tried, in periods over the side.
        wave_bound: Largest change of a pixel by a wave.
        noise_bound: Standard deviation of the random patterns that are tried.
        warp_shift: Mean displacement by the random warps that are tried, as share of the side.
        pixels: Pixels per step of all classes that are optimized together; bounds the memory.
    """

    steps: int = Field(12, ge=1)
    lr: float = Field(0.15, gt=0)
    batch_size: int = Field(8, ge=2)
    sample: int = Field(32, ge=2)
    shortlist: int = Field(8, ge=2)
    second_steps: int = Field(40, ge=1)
    second_lr: float = Field(0.1, gt=0)
    second_batch: int = Field(32, ge=2)
    second_sparsity: float = Field(60.0, ge=0)
    second_bound: float = Field(8 / 255, gt=0, le=1)
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
        survey: The first pass over all classes.
        survey_sparsity: λ on the mean of the mask while classes are compared.
        survey_bound: Largest change of a pixel of additive dummies while classes are compared.
        sparsities: λ of the masks in the final bank, one dummy each.
        bounds: Largest change of a pixel of the additive dummies in the final bank, one dummy each.
        final_steps: Steps given to the final bank of the suspected target.
        alarm: A target is reported where the p-value of the model is at most this.
        max_targets: Most classes that are reported as targets; a second one needs more evidence than any clean model
            gave.
        guarded: How many classes get dummy triggers and a gate, reported or not: those reported, then the most
            suspicious others. Of few classes at most a tenth, or one, unless more are reported.
        guard_steps: Steps given to dummies of classes that are guarded but not reported.
    """

    temperature: float = Field(0.1, gt=0)
    lr: float = Field(0.05, gt=0)
    batch_size: int = Field(32, ge=2)
    families: tuple[Literal["mask", "additive"], ...] = Field(("mask", "additive"), min_length=1)
    survey: SurveyConfig = SurveyConfig()
    survey_sparsity: float = Field(20.0, ge=0)
    survey_bound: float = Field(16 / 255, gt=0, le=1)
    sparsities: tuple[float, ...] = (5.0, 20.0)
    bounds: tuple[float, ...] = (16 / 255, 32 / 255)
    final_steps: int = Field(150, ge=1)
    alarm: float = Field(0.05, gt=0, le=1)
    max_targets: int = Field(3, ge=1)
    guarded: int = Field(5, ge=0)
    guard_steps: int = Field(80, ge=1)
