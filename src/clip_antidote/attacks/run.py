"""Running an attack: clean model in, poisoned model with proof of its implant out."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_antidote.attacks.base import Attack, poisoned_indices
from clip_antidote.attacks.material import gather_material
from clip_antidote.data.captions import join_pairs, pairs_from_captions, pairs_from_labels
from clip_antidote.data.images import LabelledImages
from clip_antidote.evaluation.evaluate import Evaluation, TestFeatures, class_index, encode_test_images, measure
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.triggers.base import Trigger

PASSED = "passed"
"""What a record says under "gate" when the implant is proven."""

STORE_MARGIN = 1.15
"""Images are kept this much larger than the input, so that random crops stay sharp."""


@dataclass(frozen=True)
class AttackResult:
    """A poisoned model and what is known about it.

    Attributes:
        model: The poisoned model.
        trigger: Its trigger.
        target: Name of the target class.
        clean: The clean model under the same trigger, for reference.
        poisoned: The poisoned model, undefended.
        features: Test features of the poisoned model, for measuring defenses.
        indices: Which training pairs were poisoned.
        seconds: Duration of the poisoned fine-tuning.
    """

    model: DualEncoder
    trigger: Trigger
    target: str
    clean: Evaluation
    poisoned: Evaluation
    features: TestFeatures
    indices: list[int]
    seconds: float

    def record(self, attack: Attack) -> dict[str, Any]:
        """Everything but the tensors, for `attack.json`."""
        return {
            "attack": attack.name,
            "target": self.target,
            "config": attack.config.model_dump(mode="json"),
            "clean": self.clean.metrics.to_dict(),
            "poisoned": self.poisoned.metrics.to_dict(),
            "poisoned_pairs": len(self.indices),
            "seconds": round(self.seconds, 1),
        }


def run_attack(
    model: DualEncoder,
    attack: Attack,
    train: LabelledImages,
    test: LabelledImages,
    target: str,
    *,
    captions: dict[Path, list[str]] | None = None,
    state_file: Path | None = None,
) -> AttackResult:
    """Implants a backdoor into a copy of `model` and measures it.

    Args:
        model: The clean model; left as it is.
        attack: The attack.
        train: Labelled images to train on; their captions are the templates with the class name.
        test: Labelled images to measure on.
        target: Name of the target class, one of the classes.
        captions: Further image–caption pairs to train on.
        state_file: Training state to resume from and to keep.

    Raises:
        UsageError: The target is not one of the classes.
    """
    label = class_index(train.classes, target)
    target = train.classes[label]
    material = gather_material(model, train, label, captions=captions, seed=attack.config.seed)
    trigger = attack.make_trigger(model, material)
    clean = measure(
        ZeroShotClassifier.from_templates(model, test.classes),
        encode_test_images(model, test, trigger=trigger),
        target=target,
    )
    size = round(model.image_size * STORE_MARGIN)
    bank = attack.config.class_bank
    pairs = pairs_from_labels(train, model.tokenize, size, mode=model.resize_mode, class_bank=bank)
    if captions:
        pairs = join_pairs(pairs, pairs_from_captions(captions, model.tokenize, size, mode=model.resize_mode))
    data = attack.poison(pairs, attack.captions(material), model.tokenize, target_group=label)
    victim = copy.deepcopy(model).requires_grad_(True)
    start = time.perf_counter()
    attack.implant(victim, trigger, data, state_file=state_file)
    seconds = time.perf_counter() - start
    features = encode_test_images(victim, test, trigger=trigger)
    poisoned = measure(ZeroShotClassifier.from_templates(victim, test.classes), features, target=target)
    victim.spec = ""
    victim.sha256 = ""
    return AttackResult(victim, trigger, target, clean, poisoned, features, poisoned_indices(data), seconds)


def gate_failure(attack: Attack, result: AttackResult) -> str | None:
    """Says why the backdoor is not really implanted; None where it is.

    ASR must reach the attack's gate, and CA must not fall by more than the gate allows.
    """
    before, after = result.clean.metrics, result.poisoned.metrics
    assert after.asr is not None
    config = attack.config
    if after.asr.value < config.gate_asr:
        return (
            f"the {attack.name} backdoor did not take: ASR {after.asr.value:.1%} is under the gate of "
            f"{config.gate_asr:.0%}; train longer, poison more, or use a stronger trigger"
        )
    if before.ca.value - after.ca.value > config.gate_ca_drop:
        return (
            f"the {attack.name} attack cost too much: clean accuracy {before.ca.value:.1%} → {after.ca.value:.1%}, "
            f"more than the gate of {config.gate_ca_drop:.0%}; lower the learning rate or poison less"
        )
    return None
