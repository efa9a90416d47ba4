"""The grid suspect × defense × seed: which runs there are, and running those that are missing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from clip_antidote.benchmark.records import Key, RunRecord, SuspectRecord, best_scores, fingerprint
from clip_antidote.benchmark.store import WAIT, RunLog, claim_work, clear_claims
from clip_antidote.config import Config, FolderPart
from clip_antidote.data.folders import load_images
from clip_antidote.defenses import DEFENSES
from clip_antidote.defenses.base import Truth
from clip_antidote.defenses.defend import defend
from clip_antidote.errors import DataError, UsageError
from clip_antidote.evaluation.evaluate import TestFeatures, encode_test_images, measure
from clip_antidote.evaluation.metric_table import METRICS
from clip_antidote.evaluation.metrics import Metrics
from clip_antidote.jobs.attack import make_attack_from, run_attack_for_record
from clip_antidote.jobs.control import ControlConfig, run_control_job
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.triggers import Trigger, load_trigger
from clip_antidote.versions import library_versions

CLEAN = "clean"

THRESHOLDS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Where the gate is placed for the curve of ASR against target-class CA; the default is one of them."""


class SuspectConfig(Config):
    """One poisoned model of the zoo.

    Attributes:
        attack: Name of the attack. "clean" is the model itself as a control; with settings it is
            the model after the fine-tuning of an attack without its poison.
        target: Target class; where the attack is "clean", none.
        settings: Settings of the attack, or of the control, besides its defaults.
        label: What tells it from others with the same attack and target, such as "low".
    """

    attack: FolderPart
    target: FolderPart | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    label: str | None = Field(None, pattern=r"^[\w-]+$")

    @property
    def name(self) -> str:
        """A name that serves as folder name."""
        parts = (self.attack, self.label, self.target and self.target.replace(" ", "_"))
        return "-".join(part for part in parts if part)

    @property
    def trained(self) -> bool:
        """Whether it is made by training, and not the clean model itself."""
        return self.attack != CLEAN or bool(self.settings)


class GridConfig(Config):
    """A benchmark: every defense on every suspect with every seed.

    Attributes:
        model: Model spec of the clean model.
        shots: Clean images per class.
        seeds: Seeds of shots and defense.
        suspects: Poisoned models and controls.
        defenses: Names of defenses, see `clip_antidote.defenses`.
    """

    model: str = "tiny"
    shots: int = Field(16, ge=1)
    seeds: tuple[int, ...] = (0, 1, 2)
    suspects: tuple[SuspectConfig, ...]
    defenses: tuple[str, ...] = ("cbpt",)


@dataclass(frozen=True)
class Run:
    """One cell of the grid."""

    suspect: SuspectConfig
    defense: str
    seed: int

    def key(self, shots: int) -> Key:
        """What its record is found by."""
        return self.suspect.name, self.defense, shots, self.seed


def all_runs(grid: GridConfig) -> list[Run]:
    """Returns every cell, grouped by suspect.

    Raises:
        UsageError: A defense is not known.
    """
    for name in grid.defenses:
        DEFENSES.get(name)
    return [Run(s, defense, seed) for s in grid.suspects for seed in grid.seeds for defense in grid.defenses]


def prepare_zoo(grid: GridConfig, data: str, out: Path, *, device: str = "cpu") -> Iterator[SuspectRecord]:
    """Makes the poisoned models that are missing, `out/zoo/NAME`, yielding the record of each.

    An attack that fails its check is kept and its record says so under "implant_check".
    """
    for suspect in grid.suspects:
        folder = out / "zoo" / suspect.name
        if not suspect.trained:
            continue
        if suspect.attack == CLEAN:
            control = ControlConfig.build(suspect.settings)
            record = run_control_job(grid.model, control, data, folder, device=device)
            yield SuspectRecord.from_attack(suspect.name, record)
            continue
        if suspect.target is None:
            raise UsageError(f"the suspect '{suspect.attack}' of the grid needs a target")
        attack = make_attack_from(suspect.attack, suspect.settings)
        record = run_attack_for_record(grid.model, attack, suspect.target, data, folder, device=device)
        yield SuspectRecord.from_attack(suspect.name, record)


class _Suspect:
    """A loaded suspect with its test features, kept while its runs go on."""

    def __init__(self, suspect: SuspectConfig, grid: GridConfig, data: str, out: Path, device: str) -> None:
        folder = out / "zoo" / suspect.name
        self.model: DualEncoder
        self.trigger: Trigger | None = None
        self.test = load_images(data, split="test")
        if not suspect.trained:
            self.model = load_model(grid.model, device=device)
        else:
            record = folder / ("control.json" if suspect.attack == CLEAN else "attack.json")
            if not record.exists():
                raise DataError(f"there is no model in {folder}; run `clip-antidote benchmark prepare` first")
            self.model = load_model(f"local-dir:{folder}", device=device)
        if suspect.attack != CLEAN:
            self.trigger = load_trigger(folder / "trigger")
        self.features: TestFeatures = encode_test_images(self.model, self.test, trigger=self.trigger)
        self.hand = ZeroShotClassifier.from_templates(self.model, self.test.classes)


def run_grid(
    grid: GridConfig,
    data: str,
    out: Path,
    *,
    config: CBPTConfig | None = None,
    device: str = "cpu",
    wait: float = WAIT,
) -> Iterator[RunRecord]:
    """Runs what has no record yet, yielding every record, old and new, in order of the grid.

    Several processes may work on one folder: a run that another one makes is left to it, and its record comes when
    it is there, looked for every `wait` seconds where nothing else is left.
    """
    config = config or CBPTConfig()
    log = RunLog(out)
    loaded: dict[str, _Suspect] = {}
    left = all_runs(grid)
    while left:
        others = []
        for run in left:
            key = run.key(grid.shots)
            record = log.find(key)
            if record is None:
                with claim_work(out, fingerprint({"run": key})) as ours:
                    if ours and (record := log.find(key)) is None:  # another one may have made it just now
                        name = run.suspect.name
                        if name not in loaded:
                            loaded = {name: _Suspect(run.suspect, grid, data, out, device)}
                        record, settings = _run(run, loaded[name], grid, data, config)
                        record = log.append(record, settings=settings, versions=library_versions())
            if record is None:
                others.append(run)
            else:
                yield record
        if len(others) == len(left):
            time.sleep(wait)
        left = others
    clear_claims(out)


def _run(
    run: Run, suspect: _Suspect, grid: GridConfig, data: str, config: CBPTConfig
) -> tuple[RunRecord, dict[str, Any] | None]:
    """Makes one run; returns its record, and its settings but for the seed where it has any."""
    shots = load_images(data, shots=grid.shots, seed=run.seed)
    target = run.suspect.target
    start = time.perf_counter()
    own = config.model_copy(update={"seed": run.seed})
    defended = defend(run.defense, suspect.model, shots, own, truth=Truth(suspect.trigger, target))
    seconds = round(time.perf_counter() - start, 2)
    features = suspect.features
    if defended.model is not suspect.model:
        features = encode_test_images(defended.model, suspect.test, trigger=suspect.trigger)
    found: dict[str, Any] = {}
    settings = None
    if isinstance(defended, PurifiedCLIP):
        found = _details(defended, features, target)
        settings = defended.record.settings.model_dump(mode="json", exclude={"seed"}) if defended.record else None
    record = RunRecord(
        suspect=run.suspect.name,
        label=run.suspect.label,
        attack=run.suspect.attack,
        target=target,
        defense=run.defense,
        seed=run.seed,
        shots=grid.shots,
        before=measure(suspect.hand, suspect.features, target=target).metrics,
        after=measure(defended, features, target=target).metrics,
        seconds=seconds,
        suspect_sha256=suspect.model.sha256,
        **found,
    )
    return record, settings


def _details(defended: PurifiedCLIP, features: TestFeatures, target: str | None) -> dict[str, Any]:
    """What a record holds of CBPT: what it found, and the same run with less of the defense."""
    made = defended.record
    assert made is not None
    found: dict[str, Any] = {
        "targets_suspected": made.targets_suspected,
        "scores": best_scores(made.scores),
        "stages": made.stages,
        "after_single": measure(defended.single(), features, target=target).metrics,
    }
    if defended.guard is not None and target is not None:
        one_look = replace(features, look_clean=None, look_triggered=None)
        found["after_one_look"] = measure(defended, one_look, target=target).metrics
        found["curve"] = tuple((t, _point(defended, features, target, t)) for t in THRESHOLDS)
    return found


def _point(defended: PurifiedCLIP, features: TestFeatures, target: str, threshold: float) -> Metrics:
    """One point of the curve: the rates with the gate at another threshold."""
    metrics = measure(defended.with_threshold(threshold), features, target=target).metrics
    kept = {metric.key for metric in METRICS if metric.along_curve}
    return Metrics.from_counts({key: value for key, value in metrics.to_counts().items() if key in kept})
