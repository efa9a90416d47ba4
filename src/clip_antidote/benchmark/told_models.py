"""Poisoned models whose truth is known, purified with their target told and their trigger not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clip_antidote.attacks.record import read_target
from clip_antidote.benchmark.population import read_population
from clip_antidote.data.images import LabelledImages
from clip_antidote.detection.scan import dummies_of, invert_targets
from clip_antidote.detection.search import SearchResult, TargetSource
from clip_antidote.detection.survey import survey_classes
from clip_antidote.inversion.config import InversionConfig
from clip_antidote.inversion.views import Observation
from clip_antidote.models import DualEncoder
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.pipeline import purify
from clip_antidote.triggers import Trigger, load_trigger


@dataclass(frozen=True)
class Suspect:
    """A poisoned model whose truth is known.

    Attributes:
        name: Its name.
        facts: Tower and attack.
        target: Name of the true target.
        spec: Where it is loaded from.
        trigger: Its trigger.
    """

    name: str
    facts: dict[str, Any]
    target: str
    spec: str
    trigger: Trigger

    @property
    def folder(self) -> str:
        """Its name as a name of files."""
        return self.name.replace(":", "-")


def read_told(population: str, names: list[str]) -> list[Suspect]:
    """The poisoned models of a population that passed their implant check, of a grid, or the embedded one ("demo").

    Of a grid (`benchmark prepare`), all that have a target or those that are named; whatever their check says.
    """
    if population == "demo":
        facts = {"tower": "resnet", "attack": "badnet"}
        return [Suspect("demo:badnet", facts, "hat", "demo:badnet", load_trigger("badnet"))]
    root = Path(population)
    if (root / "zoo").is_dir():
        found = (folder for folder in sorted((root / "zoo").iterdir()) if not folder.name.startswith("."))
        folders = [folder for folder in found if (folder / "trigger").is_dir()]  # hidden: still in training
        return [_of_grid(folder) for folder in folders if folder.name in names or not names]
    return [
        Suspect(
            row.name,
            {"tower": row.tower, "attack": row.attack},
            row.target,
            f"local-dir:{root / 'models' / row.name}",
            load_trigger(root / "models" / row.name / "trigger"),
        )
        for row in read_population(root).values()
        if row.kind == "poisoned" and row.target is not None and not row.further
        if row.name in names or (not names and row.sound)
    ]


def _of_grid(folder: Path) -> Suspect:
    facts = {"tower": "", "attack": folder.name.partition("-")[0]}
    trigger = load_trigger(folder / "trigger")
    return Suspect(folder.name, facts, read_target(folder), f"local-dir:{folder}", trigger)


def told(label: int) -> TargetSource:
    """A source that is told the target and finds its dummies as `purify` does."""

    def find(seen: Observation, config: InversionConfig, seed: int) -> SearchResult:
        survey = survey_classes(seen, config.survey, seed=seed) if config.form_steps else None
        return SearchResult(
            (label,), (label,), dummies_of(invert_targets(seen, [label], config, seed=seed, survey=survey))
        )

    return find


def purified_model(
    model: DualEncoder, shots: LabelledImages, label: int, config: CBPTConfig, kept: Path | None
) -> PurifiedCLIP:
    """Purifies a model, or takes it from `kept` where an earlier run left it."""
    if kept is not None and kept.exists():
        return PurifiedCLIP.from_pretrained(kept, model=model)
    with torch.enable_grad():
        purified = purify(model, shots, config, source=told(label))
    if kept is not None:
        purified.save_pretrained(kept)
    return purified
