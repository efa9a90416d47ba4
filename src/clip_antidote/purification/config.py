"""Settings of the whole purification (CBPT)."""

from __future__ import annotations

from pydantic import Field

from clip_antidote.config import Config
from clip_antidote.inversion.config import ANSWERS, InversionConfig
from clip_antidote.precision import Precision


class TuningConfig(Config):
    """Settings of stage 2, class-wise prompt tuning; see docs/method.md.

    Attributes:
        context_length: Context tokens M per class.
        shared_context: One context for all classes instead of one each, for comparison.
        steps: Optimizer steps.
        batch_size: Cached features of each kind (clean, dummy-triggered) per step.
        lr: Learning rate of Adam, with cosine decay.
        utility_weight: Weight of the cross-entropy on clean images.
        reclassification_weight: Weight of the cross-entropy on dummy-triggered images.
        anchor_weight: Weight of the distance to the hand-written classifier.
        clean_anchor_weight: The same where there are no dummy triggers to reclassify: for a model in which
            nothing was found, and for the clean prompts in front of the gate.
        chunk: Classes per text-encoder chunk; bounds the memory.
    """

    context_length: int = Field(4, ge=1)
    shared_context: bool = False
    steps: int = Field(300, ge=1)
    batch_size: int = Field(512, ge=1)
    lr: float = Field(2e-3, gt=0)
    utility_weight: float = Field(1.0, ge=0)
    reclassification_weight: float = Field(1.0, ge=0)
    anchor_weight: float = Field(10.0, ge=0)
    clean_anchor_weight: float = Field(40.0, ge=0)
    chunk: int = Field(128, ge=1)


class GateConfig(Config):
    """Settings of the gate, which guards the suspected target; see docs/method.md.

    Attributes:
        enabled: Whether `PurifiedCLIP` answers with the gate; without it, with one weight per class.
        threshold: What an image needs to be accepted as the target, from 0 (where dummy-triggered images
            end) to 1 (the median of the target's clean images): lower keeps more of the target class,
            higher lets fewer triggered images pass.
        lenience: How much lower the gates of classes stand that are guarded without being suspected: they keep nearly
            all images of a blameless class, and let some more triggered ones pass.
        target_views: Views made of every shot of the target.
        target_min_scale: Smallest crop of these views, as share of the area.
        min_flip: Dummies that flip a smaller share of images than this are not used.
        residual_weight: Weight of the pull on the target's text beside the dummies.
        repair: How far the target's text is moved to what the other classes predict, from 0 to 1.
        ridge: Regularization of the maps between texts and images.
        shrinkage: Share of the identity in the scatter matrix.
        inner: Whether the gate reads the inner layers of the image tower too, where they are known: an image then has
            to pass by the final feature and by the mean of what the stages say, which stands lower by 0.1.
        leeway: How far below the threshold an image may lie and still be accepted, if its other views consent; 0 for
            never.
        guarded_leeway: The same for classes that are guarded without being suspected: most of what their gates stop
            is their own.
        consent: What probability of the target the clean prompts must give to the other views in the mean.
        views_margin: How far above the threshold the gate's score on the final feature must lie in the mean over the
            other views, so that they consent.
        second_look: Whether images that the gate stops are answered by other views of them, which encodes 12
            more images for each; without it, by the tuned prompts.
    """

    enabled: bool = True
    threshold: float = 0.6
    lenience: float = Field(0.3, ge=0)
    target_views: int = Field(32, ge=1)
    target_min_scale: float = Field(0.4, gt=0, le=1)
    min_flip: float = Field(ANSWERS, ge=0, le=1)
    residual_weight: float = Field(1.0, ge=0)
    repair: float = Field(0.5, ge=0, le=1)
    ridge: float = Field(0.1, gt=0)
    shrinkage: float = Field(0.03, gt=0, le=1)
    inner: bool = True
    leeway: float = Field(0.3, ge=0)
    guarded_leeway: float = Field(1.0, ge=0)
    consent: float = Field(0.5, ge=0, le=1)
    views_margin: float = 0.1
    second_look: bool = True


class CBPTConfig(Config):
    """Settings of Class-wise Backdoor Prompt Tuning.

    Attributes:
        inversion: Stage 1.
        tuning: Stage 2.
        gate: The guard of the suspected target, beyond the paper.
        pool: About how many views of the shots are made in all.
        max_views: Most views of one shot.
        min_scale: Smallest crop of a view, as share of the area.
        triggered_views: Most views that each dummy trigger of a suspected target is put on.
        guarded_views: The same for classes that are guarded without being suspected.
        precision: What the image encoder runs in; "bf16" is autocast, "auto" takes it where the device has it.
        seed: Seed of views, triggers and batches.
    """

    inversion: InversionConfig = InversionConfig()
    tuning: TuningConfig = TuningConfig()
    gate: GateConfig = GateConfig()
    pool: int = Field(6000, ge=1)
    max_views: int = Field(9, ge=1)
    min_scale: float = Field(0.5, gt=0, le=1)
    triggered_views: int = Field(2000, ge=1)
    guarded_views: int = Field(1000, ge=1)
    precision: Precision = "auto"
    seed: int = 0

    def views_per_shot(self, shots: int) -> int:
        """How many views each of `shots` images gets, so that the pool has about its size."""
        return max(2, min(self.max_views, round(self.pool / shots)))
