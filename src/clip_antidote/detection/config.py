"""Settings of the survey of all classes."""

from __future__ import annotations

from pydantic import Field

from clip_antidote.config import Config


class SurveyConfig(Config):
    """Settings of the first pass over all classes; see docs/detection.md for why these defaults.

    The evidence was fitted with them: other values make it unreliable.

    Attributes:
        steps: Optimizer steps given to every class and family.
        lr: Learning rate of Adam, larger than that of the search since the steps are few.
        batch_size: Images per step and class.
        sample: Views on which every trigger is measured.
        pixels: Pixels per step of all classes that are optimized together; bounds the memory.
    """

    steps: int = Field(12, ge=1)
    lr: float = Field(0.15, gt=0)
    batch_size: int = Field(8, ge=2)
    sample: int = Field(32, ge=2)
    pixels: int = Field(1024 * 64 * 64, ge=1)
