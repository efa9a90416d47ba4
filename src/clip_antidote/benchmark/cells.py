"""One cell of the grid: a suspect, a defense on it, and the record of both."""

from __future__ import annotations

import time
import traceback
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_antidote.attacks.record import read_aim
from clip_antidote.benchmark.records import RunRecord, best_scores
from clip_antidote.data.folders import load_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.defenses import DEFENSES
from clip_antidote.defenses.base import Truth
from clip_antidote.defenses.defend import defend
from clip_antidote.errors import ClipAntidoteError, DataError, RefusedError
from clip_antidote.evaluation.aims import Aim
from clip_antidote.evaluation.evaluate import TestFeatures, encode_test_images, measure
from clip_antidote.evaluation.metric_table import METRICS
from clip_antidote.evaluation.metrics import Metrics
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.plain import plain
from clip_antidote.progress import mention
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.triggers import Trigger, load_trigger

if TYPE_CHECKING:
    from clip_antidote.benchmark.grid import GridConfig, Run, SuspectConfig

CLEAN = "clean"

THRESHOLDS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Where the gate is placed for the curve of ASR against target-class CA; the default is one of them."""


class LoadedSuspect:
    """A loaded suspect with its test features, kept while its runs go on."""

    def __init__(self, suspect: SuspectConfig, grid: GridConfig, data: str, out: Path, device: str) -> None:
        folder = out / "zoo" / suspect.name
        self.model: DualEncoder
        self.trigger: Trigger | None = None
        self.test = load_images(data, split="test")
        self.clean, self.device = grid.model, device
        if not suspect.trained:
            self.model = load_model(grid.model, device=device)
        else:
            record = folder / ("control.json" if suspect.attack == CLEAN else "attack.json")
            if not record.exists():
                raise DataError(f"there is no model in {folder}; run `clip-antidote benchmark prepare` first")
            self.model = load_model(f"local-dir:{folder}", device=device)
        self.aim = Aim.of(suspect.target)
        if suspect.attack != CLEAN:
            self.trigger = load_trigger(folder / "trigger")
            self.aim = read_aim(folder)
        self.features: TestFeatures = encode_test_images(self.model, self.test, trigger=self.trigger)
        self.hand = ZeroShotClassifier.from_templates(self.model, self.test.classes)

    @cached_property
    def base(self) -> DualEncoder:
        """The clean model it was made from, for defenses that need a trusted one."""
        return load_model(self.clean, device=self.device)


def run_cell(
    run: Run, suspect: LoadedSuspect, grid: GridConfig, data: str, config: CBPTConfig
) -> tuple[RunRecord, dict[str, Any] | None]:
    """Makes one run; returns its record, and its settings but for the seed where it ran.

    One that fails is tried once more, and then kept as failed with its sentence: the rest of the grid goes on.

    Raises:
        DataError: The data have no such shots; no other cell could run either.
    """
    shots = load_images(data, shots=grid.shots, seed=run.seed)
    target = run.suspect.target
    facts: dict[str, Any] = {
        "suspect": run.suspect.name,
        "label": run.suspect.label,
        "attack": run.suspect.attack,
        "target": target,
        "defense": run.defense.name,
        "seed": run.seed,
        "shots": grid.shots,
        "before": measure(suspect.hand, suspect.features, target=suspect.aim).metrics,
        "suspect_sha256": suspect.model.sha256,
    }
    start = time.perf_counter()
    try:
        return _try_cell(run, suspect, shots, config, facts)
    except Exception as error:  # whatever a defense can raise is its own failure, and no end of the grid
        mention(
            f"{run.suspect.name} {run.defense.name} seed {run.seed} failed and is tried once more: {reason(error)}"
        )
    try:
        return _try_cell(run, suspect, shots, config, facts)
    except Exception as error:
        seconds = round(time.perf_counter() - start, 2)
        return RunRecord(**facts, after=facts["before"], failed=reason(error), seconds=seconds), None


def reason(error: Exception) -> str:
    """Says how a run failed, in a sentence; of an error that no user causes, its kind and place too."""
    if isinstance(error, ClipAntidoteError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return plain(f"{type(error).__name__}: {str(error)[:500]} ({Path(last.filename).name}, line {last.lineno})")


def _try_cell(
    run: Run, suspect: LoadedSuspect, shots: LabelledImages, config: CBPTConfig, facts: dict[str, Any]
) -> tuple[RunRecord, dict[str, Any] | None]:
    needs = DEFENSES.get(run.defense.defense).profile.needs
    aim = suspect.aim
    try:
        defended = defend(
            suspect.model,
            shots,
            run.defense.defense,
            run.defense.settings or config,
            seed=run.seed,
            base=suspect.base if needs.base else None,
            truth=Truth.of(suspect.trigger, aim),
        )
    except RefusedError as error:
        return RunRecord(**facts, after=facts["before"], refused=str(error), seconds=0.0), None
    classifier, features = defended.classifier, suspect.features
    if classifier.model is not suspect.model:
        features = encode_test_images(classifier.model, suspect.test, trigger=suspect.trigger)
    found = _details(classifier, features, aim) if isinstance(classifier, PurifiedCLIP) else {}
    record = RunRecord(
        **facts,
        after=measure(classifier, features, target=aim).metrics,
        seconds=defended.seconds,
        clean_images=defended.clean_images,
        trained=defended.trained,
        peak_memory=defended.peak_memory,
        **found,
    )
    return record, defended.settings.model_dump(mode="json", exclude={"seed"})


def _details(defended: PurifiedCLIP, features: TestFeatures, aim: Aim | None) -> dict[str, Any]:
    """What a record holds of CBPT: what it found, and the same run with less of the defense."""
    made = defended.record
    if made is None:  # prompts of another method
        return {}
    found: dict[str, Any] = {
        "targets_suspected": made.targets_suspected,
        "scores": best_scores(made.scores),
        "stages": made.stages,
        "after_single": measure(defended.single(), features, target=aim).metrics,
    }
    if defended.guard is not None and aim is not None:
        one_look = replace(features, look_clean=None, look_triggered=None)
        found["after_one_look"] = measure(defended, one_look, target=aim).metrics
        # from the highest on, at which most images are looked at again: the others find all of theirs encoded
        points = {t: _point(defended, features, aim, t) for t in sorted(THRESHOLDS, reverse=True)}
        found["curve"] = tuple((t, points[t]) for t in THRESHOLDS)
    return found


def _point(defended: PurifiedCLIP, features: TestFeatures, aim: Aim, threshold: float) -> Metrics:
    """One point of the curve: the rates with the gate at another threshold."""
    metrics = measure(defended.with_threshold(threshold), features, target=aim).metrics
    kept = {metric.key for metric in METRICS if metric.along_curve}
    return Metrics.from_counts({key: value for key, value in metrics.to_counts().items() if key in kept})
