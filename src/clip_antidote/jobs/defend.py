"""The job of `clip-antidote defend`: a suspect, clean images and the name of a defense in, a defended model out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clip_antidote.config import merge_settings
from clip_antidote.data.folders import load_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.defenses.base import Defense, Truth
from clip_antidote.defenses.defend import Defended, defend, make_defense
from clip_antidote.defenses.unfinished import kept_in
from clip_antidote.evaluation.aims import class_index
from clip_antidote.evaluation.evaluate import encode_test_images, measure
from clip_antidote.files import write_json
from clip_antidote.jobs.defended import REPORT, DefenseReport, keep_defended
from clip_antidote.jobs.inspect import quick_look, refuse_errors
from clip_antidote.jobs.known_attack import KnownAttack
from clip_antidote.jobs.purify import choose_test_images
from clip_antidote.jobs.results import model_facts, now
from clip_antidote.jobs.suspect import load_suspect
from clip_antidote.jobs.workplace import workplace
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.progress import mention
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.versions import library_versions

KIND = "defended model"

WENT_ON = "it was interrupted and went on: its seconds are those of the last part"
"""The warning of a run that was not the first."""


def defense_from(name: str, file: Path | None = None, *, seed: int | None = None) -> Defense:
    """Makes a defense by its name, with settings from a YAML file; a seed that is given wins over the file's."""
    return make_defense(name, merge_settings(file, {"seed": seed}))


def run_defend(
    spec: str,
    data: str,
    out: Path,
    name: str,
    defense: Defense,
    *,
    shots: int = 16,
    base: str | None = None,
    attack: KnownAttack | None = None,
    classes: str | None = None,
    device: str = "cpu",
) -> DefenseReport:
    """Runs a defense on a suspect, measures both and writes the result folder.

    Args:
        spec: Model spec of the suspect.
        data: Folder, CSV or `embedded:NAME` with clean labelled images.
        out: Result folder; see `outputs.check_output` for what may be there.
        name: Name of the defense.
        defense: The defense with its settings, see `defense_from`.
        shots: Clean images per class.
        base: Spec of a trusted model of the same architecture, for defenses that need one.
        attack: What to measure with, besides clean images.
        classes: Class file, see `read_classes`.
        device: Where to compute.

    Raises:
        RefusedError: The defense cannot run here.
        ClipAntidoteError: Bad input, in one sentence.
    """
    seed = defense.config.seed
    with workplace(out, KIND) as work:
        clean = load_images(data, shots=shots, seed=seed, classes=classes)
        if attack is not None and attack.aim is not None:
            class_index(clean.classes, attack.aim.target)  # before long work
        seen, line = quick_look(spec)
        mention(line)
        model, notes = load_suspect(spec, clean, device)
        notes += refuse_errors(seen)
        trusted = load_model(base, device=device) if base is not None else None
        truth = Truth.of(attack.trigger, attack.aim) if attack is not None else None
        models = [model.sha256, trusted and trusted.sha256]
        state = work.resume(
            [models, name, defense.config.facts(), data, clean.names, clean.classes, attack and attack.name]
        )
        with kept_in(state) as unfinished:
            defended = defend(model, clean, name, defense.config, base=trusted, truth=truth)
        if unfinished.resumed:
            notes.append(WENT_ON)
        facts = _facts(model, defended, choose_test_images(data, clean, classes, seed=seed), attack)
        with work.result() as folder:
            kept = keep_defended(defended, model, folder)
            report = DefenseReport(**facts, base=base, data=data, kept=kept, warnings=tuple(notes))
            write_json(folder / REPORT, report.model_dump(mode="json"))
    return report


def _facts(
    model: DualEncoder, defended: Defended, test: tuple[LabelledImages, str], attack: KnownAttack | None
) -> dict[str, Any]:
    """What a report says of a defense and of the rates before and after it."""
    (before, after), described = _measured(model, defended, test, attack)
    return {
        "defense": defended.name,
        "paper": defended.profile.paper,
        "changes": defended.profile.changes,
        "settings": defended.settings.model_dump(mode="json"),
        "model": model_facts(model),
        "clean_images": defended.clean_images,
        "trained": defended.trained,
        "seconds": defended.seconds,
        "peak_memory": defended.peak_memory,
        "details": defended.details,
        "measured_on": described,
        "trigger": attack.name if attack is not None else None,
        "before": before,
        "after": after,
        "created": now(),
        "versions": library_versions(model.device),
    }


def _measured(
    model: DualEncoder, defended: Defended, test: tuple[LabelledImages, str], attack: KnownAttack | None
) -> tuple[tuple[dict[str, Any], dict[str, Any]], str]:
    """Rates before and after, and what they were measured on."""
    images, described = test
    trigger, aim = (attack.trigger, attack.aim) if attack is not None else (None, None)
    features = encode_test_images(model, images, trigger=trigger)
    hand = ZeroShotClassifier.from_templates(model, images.classes)
    before = measure(hand, features, target=aim).metrics.to_dict()
    if defended.classifier.model is not model:
        features = encode_test_images(defended.classifier.model, images, trigger=trigger)
    return (before, measure(defended.classifier, features, target=aim).metrics.to_dict()), described
