"""The job of `clip-antidote demo`: implant a backdoor into the embedded model, then remove it blindly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clip_antidote.attacks import ATTACKS
from clip_antidote.attacks.base import Attack
from clip_antidote.data.folders import load_images
from clip_antidote.evaluation.evaluate import encode_test_images, measure
from clip_antidote.jobs.attack import KIND as POISONED
from clip_antidote.jobs.attack import run_attack_job
from clip_antidote.jobs.results import build_report, pick_samples, write_artefact
from clip_antidote.models import load_model
from clip_antidote.outputs import check_output
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.classifier import KIND as PURIFIED
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.pipeline import purify
from clip_antidote.triggers import load_trigger

DATA = "embedded:clothing"
TARGET = "hat"


def demo_attack(name: str, seed: int) -> Attack:
    """Returns the demo's attack: with few classes, fewer steps are enough."""
    attack_class = ATTACKS.get(name)
    config = attack_class.config_class()
    training = config.training.model_copy(update={"steps": 180})
    return attack_class(config.model_copy(update={"training": training, "seed": seed}))


def run_demo(
    out: Path, *, attack: str = "badnet", target: str = TARGET, seed: int = 0, shots: int = 16
) -> dict[str, Any]:
    """Runs the demo and writes `out/poisoned` (the suspect) and `out/purified` (the artefact).

    The purification is told neither the trigger nor the target; both are used afterwards, to measure.

    Args:
        out: Folder to write to.
        attack: Name of the attack.
        target: Target class of the attacker.
        seed: Seed of attack, shots and purification.
        shots: Clean images per class.

    Returns:
        The report.
    """
    suspect = out / "poisoned"
    check_output(suspect, POISONED)
    check_output(out / "purified", PURIFIED)
    maker = demo_attack(attack, seed)
    record = run_attack_job("tiny", maker, target, DATA, suspect)
    target, trigger = record["target"], load_trigger(suspect / "trigger")
    model = load_model(f"local-dir:{suspect}")
    clean = load_images(DATA, shots=shots, seed=seed)
    purified = purify(model, clean, CBPTConfig(seed=seed))
    test = load_images(DATA, split="test")
    hand = ZeroShotClassifier.from_templates(model, test.classes)
    features = encode_test_images(model, test, trigger=trigger)
    before, after = (measure(classifier, features, target=target) for classifier in (hand, purified))
    report = build_report(
        purified,
        command="demo",
        data=DATA,
        measured_on=f"{len(test)} test images",
        labels=test.labels,
        before=before,
        after=after,
        extra={
            "target_true": target,
            "reference": record["clean"],
            "after_single": measure(purified.single(), features, target=target).metrics.to_dict(),
            "attack": {
                "name": attack,
                "poison_rate": maker.config.poison_rate,
                "steps": maker.config.training.steps,
                "seconds": record["seconds"],
            },
        },
    )
    samples = pick_samples(purified, hand, test, trigger=trigger, target=target, seed=seed)
    example = clean.subset([0]).tensor(model.image_size, mode=model.resize_mode)[0].float() / 255
    write_artefact(out / "purified", purified, report, example, samples)
    return report
