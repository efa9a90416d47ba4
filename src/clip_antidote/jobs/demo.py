"""The job of `clip-antidote demo`: implant a backdoor into the embedded model, then remove it blindly."""

from __future__ import annotations

from pathlib import Path

from clip_antidote.attacks import ATTACKS
from clip_antidote.attacks.base import Attack
from clip_antidote.data.folders import load_images
from clip_antidote.detection.search import search_targets
from clip_antidote.detection.state import kept_search
from clip_antidote.jobs.attack import KIND as POISONED
from clip_antidote.jobs.attack import run_attack_job
from clip_antidote.jobs.results import build_report, compare, pick_samples, write_result
from clip_antidote.jobs.workplace import workplace
from clip_antidote.models import load_model
from clip_antidote.outputs import check_output
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.artefact import KIND as PURIFIED
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.pipeline import purify
from clip_antidote.reporting import PlantedAttack, Report
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
    out: Path,
    *,
    attack: str = "badnet",
    target: str = TARGET,
    seed: int = 0,
    shots: int = 16,
    device: str = "cpu",
) -> Report:
    """Runs the demo and writes `out/poisoned` (the suspect) and `out/purified` (the artefact).

    The purification is told neither the trigger nor the target; both are used afterwards, to measure.

    Args:
        out: Folder to write to.
        attack: Name of the attack.
        target: Target class of the attacker.
        seed: Seed of attack, shots and purification.
        shots: Clean images per class.
        device: Where to compute.
    """
    suspect = out / "poisoned"
    check_output(suspect, POISONED)
    with workplace(out / "purified", PURIFIED) as work:
        maker = demo_attack(attack, seed)
        record = run_attack_job("tiny", maker, target, DATA, suspect, device=device)
        target, trigger = record["target"], load_trigger(suspect / "trigger")
        model = load_model(f"local-dir:{suspect}", device=device)
        clean, test = load_images(DATA, shots=shots, seed=seed), load_images(DATA, split="test")
        config = CBPTConfig(seed=seed)
        state = work.resume([model.sha256, config.model_dump(mode="json"), DATA, shots])
        hand = ZeroShotClassifier.from_templates(model, clean.classes)
        source = kept_search(search_targets, state)
        purified = purify(model, clean, config, weights=hand.weights, source=source)
        compared = compare(hand, purified, test, f"{len(test)} test images", trigger=trigger, target=target)
        planted = PlantedAttack(
            name=attack,
            poison_rate=maker.config.poison_rate,
            steps=maker.config.training.steps,
            seconds=record["seconds"],
        )
        report = build_report(
            compared, command="demo", data=DATA, target_true=target, reference=record["clean"], attack=planted
        )
        with work.result() as folder:
            example = clean.example(model.image_size, mode=model.resize_mode)
            write_result(folder, purified, report, example, pick_samples(compared, seed=seed))
    return report
