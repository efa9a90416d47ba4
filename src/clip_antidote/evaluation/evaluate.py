"""Evaluating classifiers on clean and triggered images, the images encoded once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.errors import DataError
from clip_antidote.evaluation.aims import Aim, class_index
from clip_antidote.evaluation.metrics import Metrics, compute_metrics
from clip_antidote.evaluation.seen_again import InnerLook, second_look
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.layers import LayersAt
from clip_antidote.models.other_views import Look
from clip_antidote.progress import track
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.triggers import Trigger, load_trigger


@dataclass(frozen=True)
class TestFeatures:
    """Features of a test set.

    Attributes:
        clean: Unit features [N, D].
        triggered: Unit features of the same images with the trigger [N, D], None without one.
        labels: True classes [N].
        classes: Class names in label order.
        look_clean: A second look at the clean images, for heads that ask for it; None where there is none.
        look_triggered: The same for the triggered images.
        layers_clean: What inner layers say of the clean images, for heads that ask; None where it is not known.
        layers_triggered: The same for the triggered images.
    """

    __test__ = False  # not a test case, whatever its name

    clean: torch.Tensor
    triggered: torch.Tensor | None
    labels: torch.Tensor
    classes: tuple[str, ...]
    look_clean: Look | None = None
    look_triggered: Look | None = None
    layers_clean: LayersAt | None = None
    layers_triggered: LayersAt | None = None

    def rates(self, clean: torch.Tensor, triggered: torch.Tensor | None, aim: Aim | None) -> Metrics:
        """Rates of what a classifier called clean and triggered images, int64 [N] each, by what was wanted."""
        return compute_metrics(
            clean,
            self.labels,
            triggered_predictions=triggered,
            target=class_index(self.classes, aim.target) if aim is not None else None,
            goals=aim.goals(self.labels, self.classes) if aim is not None else None,
            classes=self.classes,
        )


@dataclass(frozen=True)
class Evaluation:
    """Metrics and the predictions behind them.

    Attributes:
        metrics: The rates.
        clean: Predictions on clean images [N].
        triggered: Predictions on triggered images [N], None without a trigger.
    """

    metrics: Metrics
    clean: torch.Tensor
    triggered: torch.Tensor | None


@torch.no_grad()
def encode_test_images(
    model: DualEncoder,
    images: LabelledImages,
    *,
    trigger: Trigger | None = None,
    shift: Callable[[torch.Tensor], torch.Tensor] | None = None,
    batch_size: int = 256,
) -> TestFeatures:
    """Encodes test images, clean and, where a trigger is given, triggered.

    Both go through the same resize and crop; the trigger acts after it, in [0, 1]. What a head wants to look at again
    is encoded when it asks.

    Args:
        model: The model.
        images: The test images.
        trigger: The trigger.
        shift: A change of all images before the trigger, [0, 1] to the same, to test under other conditions.
        batch_size: Images per batch.
    """
    generator = torch.Generator().manual_seed(0)
    states: list[torch.Tensor] = []  # fresh triggers must be the same when an image is looked at again

    def shifted(batch: torch.Tensor, number: int) -> torch.Tensor:
        return batch if shift is None else shift(batch).clamp(0, 1)

    def with_trigger(batch: torch.Tensor, number: int) -> torch.Tensor:
        assert trigger is not None
        own = torch.Generator()
        own.set_state(states[number])
        return trigger(shifted(batch, number), own)

    clean, triggered = [], []
    batches = images.batches(model.image_size, batch_size, mode=model.resize_mode)
    for batch, _ in track(batches, "evaluating", total=-(-len(images) // batch_size)):
        on_device = shifted(batch.to(model.device), len(states))
        clean.append(model.encode_images(on_device).cpu())
        states.append(generator.get_state())
        if trigger is not None:
            triggered.append(model.encode_images(trigger(on_device, generator)).cpu())
    return TestFeatures(
        torch.cat(clean),
        torch.cat(triggered) if trigger is not None else None,
        images.labels,
        images.classes,
        second_look(model, images, batch_size, shifted),
        second_look(model, images, batch_size, with_trigger) if trigger is not None else None,
        InnerLook(model, images, batch_size, shifted),
        InnerLook(model, images, batch_size, with_trigger) if trigger is not None else None,
    )


@torch.no_grad()
def measure(classifier: ZeroShotClassifier, features: TestFeatures, *, target: str | Aim | None = None) -> Evaluation:
    """Measures a classifier on features of its own image encoder.

    Args:
        classifier: The classifier.
        features: Test features of its model.
        target: Name of the target class, or what else the attacker wants.

    Raises:
        DataError: Classifier and test set have other classes.
        UsageError: The target is not one of the classes.
    """
    aim = Aim.of(target)
    if tuple(classifier.classes) != tuple(features.classes):
        unknown = sorted(set(features.classes) - set(classifier.classes))
        raise DataError(
            f"the images have {len(features.classes)} classes, the classifier {len(classifier.classes)}"
            + (f"; not known to the classifier: {', '.join(unknown[:3])}" if unknown else "; the order differs")
        )
    if aim is not None:
        aim.goals(features.labels, features.classes)  # a wrong target is said before images are looked at again
    device = classifier.classifier.device
    answer = classifier.answer(features.clean.to(device), features.look_clean, features.layers_clean)
    clean = answer.logits.argmax(-1).cpu()
    triggered = None
    if features.triggered is not None:
        seen = features.triggered.to(device)
        answer = classifier.answer(seen, features.look_triggered, features.layers_triggered)
        triggered = answer.logits.argmax(-1).cpu()
    return Evaluation(features.rates(clean, triggered, aim), clean, triggered)


def evaluate(
    classifier: ZeroShotClassifier,
    images: LabelledImages,
    *,
    trigger: Trigger | str | Path | None = None,
    target: str | None = None,
) -> Metrics:
    """Measures CA and, with a trigger and a target, ASR, its floor, PA and target-class CA.

    Args:
        classifier: A `PurifiedCLIP` or `ZeroShotClassifier`.
        images: Labelled test images.
        trigger: A trigger, its folder, or the name of one with default settings.
        target: Name of the attacker's target class.

    Raises:
        DataError: The classes differ, or the trigger cannot be read.
        UsageError: The target is not one of the classes, or there is no such trigger.
    """
    loaded = load_trigger(trigger) if isinstance(trigger, (str, Path)) else trigger
    if target is not None:
        class_index(images.classes, target)  # a typing mistake should not cost an encoding first
    return measure(classifier, encode_test_images(classifier.model, images, trigger=loaded), target=target).metrics
