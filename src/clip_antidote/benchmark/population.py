"""A population of models: bases trained from scratch, and clean and poisoned fine-tunes of every base.

A row says how one model is made, and is enough to make it again; weights stay outside of the repository.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from clip_antidote.attacks.implant_check import PASSED
from clip_antidote.benchmark.records import Measured, fingerprint
from clip_antidote.benchmark.store import read_typed_lines
from clip_antidote.config import Config, FolderPart, Record
from clip_antidote.errors import UsageError
from clip_antidote.training.pretrain import PretrainConfig

STRIDE = 7
"""How far apart in the list of targets the bases begin; fixed, so that a new variant changes no other row."""

Kind = Literal["base", "clean", "poisoned"]


class BaseConfig(Config):
    """A model trained from scratch, or one that is there already.

    Attributes:
        name: Its name.
        tower: The kind of its image tower; models of one kind count as one architecture.
        spec: Model spec of one that is there; the rest is of no use then.
        model: open_clip's configuration of the model.
        preprocess: open_clip's configuration of the preprocessing.
        training: How it is trained.
    """

    name: str = Field(pattern=r"^[\w-]+$")
    tower: str
    spec: str | None = None
    model: dict[str, Any] = Field(default_factory=dict)
    preprocess: dict[str, Any] = Field(default_factory=dict)
    training: PretrainConfig = PretrainConfig()


class VariantConfig(Config):
    """What is done to every base.

    Attributes:
        label: Tells it from other variants.
        attack: Name of the attack; for a clean fine-tune none.
        also: Attacks that are implanted before, one after the other, each with a target of its own.
        only: Names of the bases it is done to; all by default.
        settings: Settings of the attack or of the control; a seed of its own comes from the row.
    """

    label: str = Field(pattern=r"^[\w-]+$")
    attack: str | None = None
    also: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)


class LookConfig(Config):
    """A way to look at a model: so many classes, so many images of each.

    Attributes:
        classes: Number of classes, drawn anew for every model; all of them where None or more than there are.
        shots: Clean images per class.
        without_target: Whether the target of a poisoned model is kept out of the list.
    """

    classes: int | None = Field(None, ge=4)
    shots: int = Field(16, ge=1)
    without_target: bool = False

    @property
    def name(self) -> str:
        """Tells it from other looks."""
        return f"{self.classes or 'all'}x{self.shots}{'-without' if self.without_target else ''}"


class PopulationConfig(Config):
    """All models: every base, and every variant of every base.

    Attributes:
        bases: The bases.
        clean: Benign fine-tunes.
        poisoned: Attacks; their targets are taken from `targets` in turn, over all bases.
        targets: Target classes.
        test_images: On how many test images a model is measured.
        looks: How every model is surveyed, see `benchmark.surveys`.
    """

    bases: tuple[BaseConfig, ...]
    clean: tuple[VariantConfig, ...] = ()
    poisoned: tuple[VariantConfig, ...] = ()
    targets: tuple[FolderPart, ...] = Field(min_length=1)
    test_images: int = Field(2000, ge=1)
    looks: tuple[LookConfig, ...] = (LookConfig(),)


@dataclass(frozen=True)
class Row:
    """One model to make.

    Attributes:
        name: Name of its folder.
        kind: Whether it is a base or what was done to one.
        base: Its base.
        variant: What is done to the base.
        target: Target class of a poisoned one.
        further: Targets of the attacks before, see `VariantConfig.also`; an attack with several takes its own.
        seed: Seed of the fine-tuning.
    """

    name: str
    kind: Kind
    base: BaseConfig
    variant: VariantConfig | None = None
    target: str | None = None
    further: tuple[str, ...] = ()
    seed: int = 0

    @property
    def recipe(self) -> dict[str, Any]:
        """All that the model follows from, ready for JSON."""
        base = self.base.model_dump(mode="json", exclude={"spec"} if self.base.spec is None else None)
        if self.variant is None:
            return {"base": base}
        more = {"also": self.variant.also, "further": self.further} if self.further else {}
        return {
            "base": fingerprint({"base": base}),
            **self.variant.model_dump(mode="json", exclude={"label", "only", "also"}),
            "target": self.target,
            "seed": self.seed,
            **more,
        }


class ModelRecord(Record):
    """What is known about a model of the population.

    Attributes:
        name: Its name.
        kind: Base, clean or poisoned fine-tune.
        base: Name of its base.
        tower: Kind of the image tower.
        attack: Its attack.
        target: Its target class.
        further: Rates under the other triggers of a model with several, by their targets.
        implant_check: "passed", or why not.
        recipe: Fingerprint of what it was made from.
        measured: What it does, undefended; with the trigger where it is poisoned.
        reference: What its base does under the same trigger.
        seconds: How long it took to make.
        sha256: Hash of the weights.
    """

    name: FolderPart
    kind: Kind
    base: FolderPart
    tower: str
    attack: str | None = None
    target: str | None = None
    further: dict[str, Measured] = Field(default_factory=dict)
    implant_check: str | None = None
    recipe: str
    measured: Measured
    reference: Measured | None = None
    seconds: float
    sha256: str

    @property
    def sound(self) -> bool:
        """Whether it is what its row says: one that failed its implant check is neither clean nor poisoned."""
        return self.kind != "poisoned" or self.implant_check == PASSED

    @property
    def targets(self) -> tuple[str, ...]:
        """All targets, the one of the last trigger first."""
        return ((self.target,) if self.target is not None else ()) + tuple(self.further)


def all_rows(config: PopulationConfig) -> list[Row]:
    """Returns every model: all bases, then one variant after the other, of all bases.

    So a population that is not complete is balanced over the bases.
    """
    rows = [Row(base.name, "base", base, seed=base.training.seed) for base in config.bases]
    for clean, poisoned in zip_longest(_clean_rows(config), _poisoned_rows(config), fillvalue=()):
        rows += [*clean, *poisoned]
    return rows


def chosen_rows(config: PopulationConfig, names: Collection[str] = ()) -> list[Row]:
    """Returns the rows of some models and of the bases they need, in the order of `all_rows`; all by default.

    Raises:
        UsageError: The population has no model of such a name.
    """
    rows = all_rows(config)
    if unknown := sorted({*names} - {row.name for row in rows}):
        close = get_close_matches(unknown[0], [row.name for row in rows], n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"it has {len(rows)} models, like {rows[-1].name}"
        raise UsageError(f"the population has no model '{unknown[0]}'; {hint}")
    needed = {*names} | {row.base.name for row in rows if row.name in names}
    return [row for row in rows if not names or row.name in needed]


def _clean_rows(config: PopulationConfig) -> Iterator[list[Row]]:
    for v, variant in enumerate(config.clean):
        name = f"clean-{variant.label}"
        yield [
            Row(f"{base.name}-{name}", "clean", base, variant, seed=100 * b + v)
            for b, base in _wanted(config, variant)
        ]


def _poisoned_rows(config: PopulationConfig) -> Iterator[list[Row]]:
    for v, variant in enumerate(config.poisoned):
        rows = []
        for b, base in _wanted(config, variant):
            number = STRIDE * b + v
            apart = len(config.targets) // (len(variant.also) + 1)
            targets = [
                config.targets[(number + i * apart) % len(config.targets)] for i in range(len(variant.also) + 1)
            ]
            name = f"{base.name}-{variant.label}-{targets[0].replace(' ', '_')}"
            seed = 100 * b + 50 + v
            rows.append(Row(name, "poisoned", base, variant, targets[0], tuple(targets[1:]), seed=seed))
        yield rows


def _wanted(config: PopulationConfig, variant: VariantConfig) -> list[tuple[int, BaseConfig]]:
    """Returns the bases that a variant is made of, with their numbers."""
    return [(b, base) for b, base in enumerate(config.bases) if not variant.only or base.name in variant.only]


def read_population(out: Path) -> dict[str, ModelRecord]:
    """Reads the manifest `models.jsonl`, by name; the last line of a name counts.

    Raises:
        DataError: A line is no such record.
    """
    return {record.name: record for record in read_typed_lines(out / "models.jsonl", ModelRecord)}
