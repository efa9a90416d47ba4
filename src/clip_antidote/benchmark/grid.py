"""The grid suspect × defense × seed: which runs there are, and running those that are missing."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from clip_antidote.benchmark.cells import CLEAN, LoadedSuspect, run_cell
from clip_antidote.benchmark.published import Published, write_published
from clip_antidote.benchmark.records import Key, RunRecord, SuspectRecord, fingerprint
from clip_antidote.benchmark.store import WAIT, RunLog, claim_work, clear_claims
from clip_antidote.config import Config, FolderPart
from clip_antidote.defenses.defend import make_defense
from clip_antidote.errors import UsageError
from clip_antidote.jobs.attack import make_attack_from, run_attack_for_record
from clip_antidote.jobs.control import ControlConfig, run_control_job
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.versions import library_versions


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


class DefenseChoice(Config):
    """A defense of a grid; its name alone stands for it with its defaults.

    Attributes:
        defense: Name of the defense, see `clip_antidote.defenses`.
        settings: Settings besides its defaults.
        label: What tells it from the same defense with other settings, such as "short"; needed with settings.
    """

    defense: str
    settings: dict[str, Any] = Field(default_factory=dict)
    label: str | None = Field(None, pattern=r"^[\w-]+$")

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"defense": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        if self.settings and self.label is None:
            raise ValueError(f"'{self.defense}' with settings of its own needs a label that its runs are known by")
        return self

    @property
    def name(self) -> str:
        """The name of its runs in records and tables."""
        return self.defense if self.label is None else f"{self.defense}-{self.label}"


class GridConfig(Config):
    """A benchmark: every defense on every suspect with every seed.

    Attributes:
        model: Model spec of the clean model.
        shots: Clean images per class.
        seeds: Seeds of shots and defense.
        suspects: Poisoned models and controls.
        defenses: Defenses, by name or with settings.
        published: Numbers of papers to show beside the measured ones.
    """

    model: str = "tiny"
    shots: int = Field(16, ge=1)
    seeds: tuple[int, ...] = (0, 1, 2)
    suspects: tuple[SuspectConfig, ...]
    defenses: tuple[DefenseChoice, ...] = (DefenseChoice(defense="cbpt"),)
    published: tuple[Published, ...] = ()


@dataclass(frozen=True)
class Run:
    """One cell of the grid."""

    suspect: SuspectConfig
    defense: DefenseChoice
    seed: int

    def key(self, shots: int) -> Key:
        """What its record is found by."""
        return self.suspect.name, self.defense.name, shots, self.seed


def all_runs(grid: GridConfig) -> list[Run]:
    """Returns every cell, grouped by suspect.

    Raises:
        UsageError: A defense or one of its settings is not known, or two have one name.
    """
    for choice in grid.defenses:
        make_defense(choice.defense, choice.settings)
    names = [choice.name for choice in grid.defenses]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"the grid has the defense '{min(twice)}' twice; give one of them another label")
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


def run_grid(
    grid: GridConfig,
    data: str,
    out: Path,
    *,
    config: CBPTConfig | None = None,
    device: str = "cpu",
    wait: float = WAIT,
    retry: bool | Collection[Key] = False,
) -> Iterator[RunRecord]:
    """Runs what has no record yet, yielding every record, old and new, in order of the grid.

    A run that fails twice is kept as failed and not made again, unless `retry` asks for it: for all of
    them, or for those with the keys it names.

    Several processes may work on one folder: a run that another one makes is left to it, and its record comes when
    it is there, looked for every `wait` seconds where nothing else is left.
    """
    config = config or CBPTConfig()
    log = RunLog(out)
    loaded: dict[str, LoadedSuspect] = {}
    left = all_runs(grid)
    write_published(out, grid.published)
    again = {run.key(grid.shots) for run in left} if retry is True else set(retry or ())
    while left:
        others = []
        for run in left:
            key = run.key(grid.shots)
            record = _found(log, key, again)
            if record is None:
                with claim_work(out, fingerprint({"run": key})) as ours:
                    if ours and (record := _found(log, key, again)) is None:  # another one may have made it just now
                        again.discard(key)
                        name = run.suspect.name
                        if name not in loaded:
                            loaded = {name: LoadedSuspect(run.suspect, grid, data, out, device)}
                        record, settings = run_cell(run, loaded[name], grid, data, config)
                        record = log.append(record, settings=settings, versions=library_versions(device))
            if record is None:
                others.append(run)
            else:
                yield record
        if len(others) == len(left):
            time.sleep(wait)
        left = others
    clear_claims(out)


def _found(log: RunLog, key: Key, again: set[Key]) -> RunRecord | None:
    """The record of a run; None where there is none, or it failed and is to be made again."""
    record = log.find(key)
    return None if record is not None and record.failed is not None and key in again else record
