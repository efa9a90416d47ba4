"""Settings of the whole purification (CBPT)."""

from __future__ import annotations

from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.inversion.config import InversionConfig


class TuningConfig(Config):
    """Settings of stage 2, class-wise prompt tuning; see docs/method.md.

    Attributes:
        context_length: Context tokens M per class.
        steps: Optimizer steps.
        batch_size: Cached features of each kind (clean, dummy-triggered) per step.
        lr: Learning rate of Adam, with cosine decay.
        utility_weight: Weight of the cross-entropy on clean images.
        reclassification_weight: Weight of the cross-entropy on dummy-triggered images.
        anchor_weight: Weight of the distance to the hand-written classifier.
        clean_anchor_weight: The same where there are no dummy triggers to reclassify: for a model in which
            nothing was found, and for the clean prompts beside the decoy.
        chunk: Classes per text-encoder chunk; bounds the memory.
    """

    context_length: int = Field(4, ge=1)
    steps: int = Field(300, ge=1)
    batch_size: int = Field(512, ge=1)
    lr: float = Field(2e-3, gt=0)
    utility_weight: float = Field(1.0, ge=0)
    reclassification_weight: float = Field(1.0, ge=0)
    anchor_weight: float = Field(10.0, ge=0)
    clean_anchor_weight: float = Field(40.0, ge=0)
    chunk: int = Field(128, ge=1)


class DecoyConfig(Config):
    """Settings of the decoy prompt, which guards the suspected target; see docs/method.md.

    Attributes:
        enabled: Whether `PurifiedCLIP` answers with the decoy; without it, with one weight per class.
        steps: Optimizer steps.
        batch_size: Cached features of each kind (clean, dummy-triggered) per step.
        target_batch: Clean views of the target per step.
        target_views: Views made of every shot of the target.
        target_min_scale: Smallest crop of these views, as share of the area.
        lr: Learning rate of Adam, with cosine decay.
        target_weight: Weight of keeping the target's clean views on the target's side.
        keep: Share of the target's clean views the gate has to let through; sets its threshold.
    """

    enabled: bool = True
    steps: int = Field(300, ge=1)
    batch_size: int = Field(512, ge=1)
    target_batch: int = Field(64, ge=1)
    target_views: int = Field(32, ge=1)
    target_min_scale: float = Field(0.4, gt=0, le=1)
    lr: float = Field(2e-3, gt=0)
    target_weight: float = Field(1.0, ge=0)
    keep: float = Field(0.95, gt=0, lt=1)


class CBPTConfig(Config):
    """Settings of Class-wise Backdoor Prompt Tuning.

    Attributes:
        inversion: Stage 1.
        tuning: Stage 2.
        decoy: The guard of the suspected target, beyond the paper.
        pool: About how many views of the shots are made in all.
        max_views: Most views of one shot.
        min_scale: Smallest crop of a view, as share of the area.
        seed: Seed of views, triggers and batches.
    """

    inversion: InversionConfig = InversionConfig()
    tuning: TuningConfig = TuningConfig()
    decoy: DecoyConfig = DecoyConfig()
    pool: int = Field(6000, ge=1)
    max_views: int = Field(9, ge=1)
    min_scale: float = Field(0.5, gt=0, le=1)
    seed: int = 0

    def views_per_shot(self, shots: int) -> int:
        """How many views each of `shots` images gets, so that the pool has about its size."""
        return max(2, min(self.max_views, round(self.pool / shots)))
