"""Running an attack: clean model in, poisoned model with proof of its implant out."""

from __future__ import annotations

import copy
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clip_antidote.attacks.base import Attack, poisoned_indices
from clip_antidote.attacks.material import Material, caption_material, gather_material
from clip_antidote.attacks.modalities import BOTH, Modality, measure_modalities
from clip_antidote.attacks.training_data import check_same_pairs, gather_pairs
from clip_antidote.data.captions import CaptionSet
from clip_antidote.data.images import LabelledImages
from clip_antidote.errors import UsageError
from clip_antidote.evaluation.evaluate import Evaluation, TestFeatures, class_index, encode_test_images, measure
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.outputs import result_folder
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.training.augment import STORE_MARGIN
from clip_antidote.training.distributed import Ranks
from clip_antidote.triggers import load_trigger
from clip_antidote.triggers.base import Trigger

PASSED = "passed"
"""What a record says under "gate" when the implant is proven."""


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
        modalities: Where the trigger is in the text too: image, text and both, see `measure_modalities`.
            `clean` and `poisoned` are the image alone, with prompts without trigger.
        names: The names of the poisoned images.
        pairs: Number of training pairs.
    """

    model: DualEncoder
    trigger: Trigger
    target: str
    clean: Evaluation
    poisoned: Evaluation
    features: TestFeatures
    indices: list[int]
    seconds: float
    modalities: dict[str, Modality] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    pairs: int = 0

    def record(self, attack: Attack) -> dict[str, Any]:
        """Everything but the tensors, for `attack.json`."""
        record = {
            "attack": attack.name,
            "target": self.target,
            "config": attack.config.model_dump(mode="json"),
            "clean": self.clean.metrics.to_dict(),
            "poisoned": self.poisoned.metrics.to_dict(),
            "pairs": self.pairs,
            "poisoned_pairs": len(self.indices),
            "seconds": round(self.seconds, 1),
        }
        if self.modalities:
            record["modalities"] = {name: modality.to_dict() for name, modality in self.modalities.items()}
        return record


@dataclass(frozen=True)
class Implant:
    """A backdoor that has been trained in and is not measured yet.

    Attributes:
        model: The poisoned model.
        trigger: Its trigger.
        target: Name of the target class.
        before: What the clean model does under the same trigger; None in processes that measure nothing.
        indices: Which training pairs were poisoned.
        names: The names of their images.
        pairs: Number of training pairs.
        seconds: Duration of the poisoned fine-tuning.
    """

    model: DualEncoder
    trigger: Trigger
    target: str
    before: Measured | None
    indices: list[int]
    names: list[str]
    pairs: int
    seconds: float


@dataclass(frozen=True)
class Measured:
    """What one model does under a trigger: features, rates, and rates by modality."""

    features: TestFeatures
    evaluation: Evaluation
    modalities: dict[str, Evaluation]


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
    """Implants a backdoor into a copy of `model` and measures it; see `implant_backdoor`."""
    return measure_implant(implant_backdoor(model, attack, train, test, target, captions=captions, state=state), test)


def implant_backdoor(
    model: DualEncoder,
    attack: Attack,
    train: LabelledImages | None,
    test: LabelledImages,
    target: str,
    *,
    captions: CaptionSet | None = None,
    state: Path | None = None,
) -> Implant:
    """Measures the clean model under the trigger, and implants the backdoor into a copy of it.

    Where several processes train together, all call this. The first one makes the trigger, measures and
    keeps the state.

    Args:
        model: The clean model; left as it is.
        attack: The attack; its settings say which pairs it trains on.
        train: Labelled images to train on; their captions are the templates with the class name.
        test: Labelled images to measure on.
        target: Name of the target class, one of the classes.
        captions: Image–caption pairs to train on.
        state: Folder with trigger and training state, to resume from and to keep.

    Raises:
        UsageError: The target is not one of the classes, or data that the settings ask for are missing.
        DataError: There are too few pairs to poison, or data cannot be read.
    """
    config, ranks = attack.config, Ranks.current()
    if config.train_on != "captions" and train is not None:
        class_index(train.classes, target)  # the two must agree, and a typing mistake should be told first
    target = test.classes[class_index(test.classes, target)]
    if captions is not None and config.caption_pairs is not None:
        captions = captions.sample(config.caption_pairs, seed=config.seed)
    known = _known_trigger(state) if ranks.first else None
    material = attack_material(
        model, attack, train, test.classes, target, captions, limit=1024 if ranks.first and known is None else 0
    )
    if ranks.first and known is None:
        known = attack.make_trigger(model, material)
        if state is not None:
            with result_folder(state / "trigger", "trigger") as folder:
                known.save(folder)
    trigger = _shared_trigger(known, ranks)
    before = _measure(model, test, trigger, target) if ranks.first else None
    size = round(model.image_size * STORE_MARGIN)
    own = gather_pairs(model, config, train, target, captions=captions, size=size)
    check_same_pairs(own.pairs, ranks)
    texts = attack.captions(material)
    data = attack.poison(own.pairs, texts, model.tokenize, target_group=own.target_group, candidates=own.candidates)
    victim = copy.deepcopy(model).requires_grad_(True)
    start = time.perf_counter()
    attack.implant(victim, trigger, data, state_file=state / "training.pt" if state is not None else None)
    seconds = time.perf_counter() - start
    victim.spec = ""
    victim.sha256 = ""
    indices = poisoned_indices(data)
    return Implant(victim, trigger, target, before, indices, own.names(indices), len(own.pairs), seconds)


def measure_implant(implant: Implant, test: LabelledImages) -> AttackResult:
    """Measures a poisoned model, in the process that measured the clean one."""
    before = implant.before
    assert before is not None
    after = _measure(implant.model, test, implant.trigger, implant.target)
    return AttackResult(
        model=implant.model,
        trigger=implant.trigger,
        target=implant.target,
        clean=before.evaluation,
        poisoned=after.evaluation,
        features=after.features,
        indices=implant.indices,
        names=implant.names,
        pairs=implant.pairs,
        seconds=implant.seconds,
        modalities={name: Modality(was, after.modalities[name]) for name, was in before.modalities.items()},
    )


def _measure(model: DualEncoder, test: LabelledImages, trigger: Trigger, target: str) -> Measured:
    features = encode_test_images(model, test, trigger=trigger)
    evaluation = measure(ZeroShotClassifier.from_templates(model, test.classes), features, target=target)
    return Measured(features, evaluation, measure_modalities(model, features, evaluation, trigger, target))


def attack_material(
    model: DualEncoder,
    attack: Attack,
    train: LabelledImages | None,
    classes: tuple[str, ...],
    target: str,
    captions: CaptionSet | None,
    *,
    limit: int = 1024,
) -> Material:
    """The attacker's data: of the kind that the attack trains on."""
    seed = attack.config.seed
    if attack.config.train_on == "captions":
        if captions is None:
            raise UsageError("train_on: captions needs --captions with image–caption pairs")
        others = [name for name in classes if name != target]
        return caption_material(model, captions, target, others, limit=limit, seed=seed)
    if train is None:
        raise UsageError(f"train_on: {attack.config.train_on} needs labelled training images")
    label = class_index(train.classes, target)
    return gather_material(model, train, label, captions=captions, limit=limit, seed=seed)


def _known_trigger(state: Path | None) -> Trigger | None:
    """The trigger of an interrupted run, which the training must go on with."""
    folder = state / "trigger" if state is not None else None
    return load_trigger(folder) if folder is not None and folder.is_dir() else None


def _shared_trigger(trigger: Trigger | None, ranks: Ranks) -> Trigger:
    """Gives every process the trigger of the first one."""
    if trigger is not None and ranks.count == 1:
        return trigger
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if trigger is not None:
            trigger.save(folder)
        for file in (folder / "trigger.json", folder / "trigger.safetensors"):
            data = ranks.share(file.read_bytes() if file.exists() else b"")
            if data:
                file.write_bytes(data)
        return load_trigger(folder)


def gate_failure(attack: Attack, result: AttackResult) -> str | None:
    """Says why the backdoor is not really implanted; None where it is.

    ASR must reach the attack's gate, and CA must not fall by more than the gate allows. Where the trigger
    is in the text too, it is the ASR of image and text together that counts.
    """
    before, after = result.clean.metrics, result.poisoned.metrics
    if BOTH in result.modalities:
        after = result.modalities[BOTH].poisoned.metrics
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
