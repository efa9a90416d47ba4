"""What a model, clean or poisoned, does under a trigger."""

from __future__ import annotations

from dataclasses import dataclass, field

from clip_antidote.attacks.modalities import measure_modalities
from clip_antidote.data.images import LabelledImages
from clip_antidote.evaluation.evaluate import Evaluation, TestFeatures, encode_test_images, measure
from clip_antidote.evaluation.metrics import Metrics
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.triggers.base import Trigger


@dataclass(frozen=True)
class Measured:
    """What one model does under a trigger, undefended.

    Attributes:
        evaluation: With the trigger in the image and prompts without.
        features: The test features behind it, for measuring defenses of the same model.
        modalities: Where the trigger is in the text too: image, text and both, see `measure_modalities`.
    """

    evaluation: Evaluation
    features: TestFeatures
    modalities: dict[str, Evaluation] = field(default_factory=dict)

    @property
    def metrics(self) -> Metrics:
        """The rates with the trigger in the image."""
        return self.evaluation.metrics


def measure_under_trigger(model: DualEncoder, test: LabelledImages, trigger: Trigger, target: str) -> Measured:
    """Measures a model with its hand-written prompts on clean and triggered test images."""
    features = encode_test_images(model, test, trigger=trigger)
    evaluation = measure(ZeroShotClassifier.from_templates(model, test.classes), features, target=target)
    return Measured(evaluation, features, measure_modalities(model, features, evaluation, trigger, target))
