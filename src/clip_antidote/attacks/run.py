"""Running an attack: clean model in, poisoned model and what it does beside the clean one out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clip_antidote.attacks.base import Attack
from clip_antidote.attacks.clean_data import CleanData
from clip_antidote.attacks.implant import Implant, implant_backdoor
from clip_antidote.attacks.modalities import measure_modalities
from clip_antidote.attacks.trigger_making import prepare_trigger
from clip_antidote.data.captions import CaptionSet
from clip_antidote.data.images import LabelledImages
from clip_antidote.evaluation.aims import Aim
from clip_antidote.evaluation.evaluate import Evaluation, TestFeatures, encode_test_images, measure
from clip_antidote.evaluation.metrics import Metrics
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.training.distributed import Ranks
from clip_antidote.triggers.base import Trigger


@dataclass(frozen=True)
class Measured:
    """What one model does under a trigger, undefended.

    Attributes:
        evaluation: With the trigger in the image and prompts without.
        features: The test features behind it, for measuring defenses of the same model.
        modalities: Where the trigger is in the text too: image, text and both, see `measure_modalities`.
        further: Where other triggers aim at other classes: the rates under each, by its target.
    """

    evaluation: Evaluation
    features: TestFeatures
    modalities: dict[str, Evaluation] = field(default_factory=dict)
    further: dict[str, Metrics] = field(default_factory=dict)

    @property
    def metrics(self) -> Metrics:
        """The rates with the trigger in the image."""
        return self.evaluation.metrics


@dataclass(frozen=True)
class AttackResult:
    """A poisoned model and what is known about it.

    Attributes:
        implant: What was trained.
        before: The clean model under the same trigger, for reference.
        after: The poisoned model, undefended.
    """

    implant: Implant
    before: Measured
    after: Measured

    @property
    def model(self) -> DualEncoder:
        """The poisoned model."""
        return self.implant.model

    @property
    def trigger(self) -> Trigger:
        """Its trigger."""
        return self.implant.trigger

    @property
    def features(self) -> TestFeatures:
        """Test features of the poisoned model, for measuring defenses."""
        return self.after.features

    def record(self, attack: Attack) -> dict[str, Any]:
        """Everything but the tensors, for `attack.json`."""
        record = {
            "attack": attack.name,
            "target": self.implant.target,
            "config": attack.config.facts(),
            "training": {"method": attack.config.training_method.name, **self.implant.training},
            "clean": self.before.metrics.to_dict(),
            "poisoned": self.after.metrics.to_dict(),
            "pairs": self.implant.pairs,
            "poisoned_pairs": len(self.implant.indices),
            "seconds": round(self.implant.seconds, 1),
        }
        if attack.aim(self.implant.target).all_to_all:
            record["all_to_all"] = True
        if self.implant.covers:
            record["cover_pairs"] = len(self.implant.covers)
        if self.implant.further:
            record["further"] = [
                {
                    "target": target,
                    "trigger": trigger.name,
                    "clean": self.before.further[target].to_dict(),
                    "poisoned": self.after.further[target].to_dict(),
                }
                for target, trigger in self.implant.further.items()
            ]
        if self.after.modalities:
            record["modalities"] = {
                name: {"clean": self.before.modalities[name].metrics.to_dict(), "poisoned": found.metrics.to_dict()}
                for name, found in self.after.modalities.items()
            }
        return record


def run_attack(
    model: DualEncoder,
    attack: Attack,
    train: LabelledImages | None,
    test: LabelledImages,
    target: str,
    *,
    captions: CaptionSet | None = None,
    state: Path | None = None,
) -> AttackResult:
    """Implants a backdoor into a copy of `model` and measures both, in one process; see `begin_attack`."""
    implant, before = begin_attack(model, attack, train, test, target, captions=captions, state=state)
    assert before is not None
    return finish_attack(implant, attack, before, test)


def begin_attack(
    model: DualEncoder,
    attack: Attack,
    train: LabelledImages | None,
    test: LabelledImages,
    target: str,
    *,
    captions: CaptionSet | None = None,
    state: Path | None = None,
) -> tuple[Implant, Measured | None]:
    """Makes the trigger, measures the clean model under it, and implants the backdoor into a copy of the model.

    Where several processes train together, all call this. The first one makes the trigger, measures and
    keeps the state; it alone goes on with `finish_attack`.

    Args:
        model: The clean model; left as it is.
        attack: The attack; its settings say which pairs it trains on.
        train: Labelled images to train on; their captions are the templates with the class name.
        test: Labelled images to measure on.
        target: Name of the target class, one of the classes.
        captions: Image–caption pairs to train on.
        state: Folder with trigger and training state, to resume from and to keep.

    Returns:
        What was trained, and what the clean model does; None for the latter in processes other than the first.

    Raises:
        UsageError: The target is not one of the classes, or data that the settings ask for are missing.
        DataError: There are too few pairs to poison, or data cannot be read.
    """
    data = CleanData.gather(attack.config, train, captions, classes=test.classes, target=target)
    trigger, material = prepare_trigger(model, attack, data, state=state)
    further = attack.further(material)
    aim = attack.aim(data.target)
    before = _measure_all(model, test, trigger, aim, further) if Ranks.current().first else None
    return implant_backdoor(model, attack, trigger, material, data, state=state), before


def finish_attack(implant: Implant, attack: Attack, before: Measured, test: LabelledImages) -> AttackResult:
    """Measures the poisoned model, in the process that measured the clean one."""
    after = _measure_all(implant.model, test, implant.trigger, attack.aim(implant.target), implant.further)
    return AttackResult(implant, before, after)


def _measure_all(
    model: DualEncoder, test: LabelledImages, trigger: Trigger, aim: Aim, further: dict[str, Trigger]
) -> Measured:
    """Measures a model under its trigger, and under the others that aim at other classes."""
    others = {name: measure_under_trigger(model, test, own, Aim(name)).metrics for name, own in further.items()}
    return replace(measure_under_trigger(model, test, trigger, aim), further=others)


def measure_under_trigger(model: DualEncoder, test: LabelledImages, trigger: Trigger, aim: Aim) -> Measured:
    """Measures a model with its hand-written prompts on clean and triggered test images."""
    features = encode_test_images(model, test, trigger=trigger)
    evaluation = measure(ZeroShotClassifier.from_templates(model, test.classes), features, target=aim)
    return Measured(evaluation, features, measure_modalities(model, features, evaluation, trigger, aim))
