"""What a benchmark writes down: counts, from which rates and intervals follow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, PlainSerializer, PlainValidator

from clip_antidote.config import Record
from clip_antidote.errors import DataError
from clip_antidote.evaluation.metrics import Metrics
from clip_antidote.purification.record import ScoreRow

BEST_SCORES = 5
"""How many classes a record keeps the evidence of, highest first."""


def _measured(value: Any) -> Metrics:
    if isinstance(value, Metrics):
        return value
    try:
        return Metrics.from_counts(value)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"these are no counts: {value}") from error


Measured = Annotated[
    Metrics, PlainValidator(_measured), PlainSerializer(lambda metrics: metrics.to_counts(), return_type=dict)
]
"""A measurement, in JSON [successes, count] for every rate."""

Key = tuple[str, str, int, int]
"""What tells a run from others: suspect, defense, shots and seed."""


class Score(NamedTuple):
    """The evidence against a class, and the two outlier scores behind it."""

    name: str
    score: float | None
    alignment: float | None
    inversion: float | None


class RunRecord(Record):
    """One defense on one suspect.

    Attributes:
        schema_version: Version of this form.
        suspect: Name of the suspect in the zoo.
        label: Its label.
        attack: Its attack.
        target: Its true target; None for a control.
        defense: Name of the variant.
        seed: Seed of shots and defense.
        shots: Clean images per class.
        targets_suspected: The classes named as targets; None for a defense that looks for none.
        scores: The classes with the most evidence.
        before: The suspect with hand-written prompts.
        after: The defended suspect; the suspect itself where the defense refused or failed.
        refused: Why the defense could not run, None where it ran.
        failed: How it failed, twice in a row; None where it did not.
        after_single: The same run with one weight per class.
        after_one_look: The same run without the second look.
        curve: The same run at other thresholds of the gate.
        seconds: Duration of the defense.
        clean_images: Clean images it was given.
        trained: Parameters it trained.
        peak_memory: The most memory while it ran, in MiB, see `memory.peak_memory`; empty where it was not measured.
        stages: Seconds per stage.
        settings: Key of its settings, but for the seed, in `settings.json`.
        versions: Key of the library versions there.
        suspect_sha256: Hash of the suspect's weights.
        reference: The clean model under the same trigger; kept with the suspect and put in on reading.
    """

    schema_version: Literal[1] = 1
    suspect: str
    label: str | None = None
    attack: str
    target: str | None
    defense: str
    seed: int
    shots: int
    targets_suspected: tuple[str, ...] | None = None
    scores: tuple[Score, ...] = ()
    before: Measured
    after: Measured
    refused: str | None = None
    failed: str | None = None
    after_single: Measured | None = None
    after_one_look: Measured | None = None
    curve: tuple[tuple[float, Measured], ...] = ()
    seconds: float
    clean_images: int | None = None
    trained: int | None = None
    peak_memory: dict[str, int] = Field(default_factory=dict)
    stages: dict[str, float] = Field(default_factory=dict)
    settings: str | None = None
    versions: str | None = None
    suspect_sha256: str | None = None
    reference: Measured | None = Field(None, exclude=True)

    @property
    def key(self) -> Key:
        """What tells it from other runs."""
        return self.suspect, self.defense, self.shots, self.seed

    @property
    def done(self) -> bool:
        """Whether the defense ran to its end."""
        return self.refused is None and self.failed is None

    @property
    def target_suspected(self) -> str | None:
        """The class with the most evidence among those named as targets."""
        return next(iter(self.targets_suspected or ()), None)

    @property
    def named(self) -> bool:
        """Whether the true target was named first."""
        return self.target_suspected == self.target

    def to_line(self) -> str:
        """Returns it as one line of JSON; what equals its default is left out."""
        values = self.model_dump(mode="json", exclude_defaults=True)
        return compact({"schema_version": self.schema_version, **values})


class SuspectRecord(Record):
    """One model of the zoo: how it was made, and what it does.

    Attributes:
        name: Its name.
        attack: The attack; "clean" for a control.
        target: Target class; None for a control.
        implant_check: "passed", or why not.
        config: Settings of the attack or the control.
        clean: The clean model under the same trigger.
        poisoned: The model itself.
        modalities: Both with the trigger in the image, the text or both, where it has a word.
        pairs: Training pairs.
        poisoned_pairs: How many of them were poisoned.
        seconds: Duration of the fine-tuning.
        model: Spec and hash of the clean model.
        data: The images it was made of.
        captions: The captions, where they were given.
        measured_on: The images it was measured on.
    """

    name: str = Field(exclude=True)
    attack: str
    target: str | None
    implant_check: str
    config: dict[str, Any]
    clean: Measured
    poisoned: Measured
    modalities: dict[str, dict[str, Measured]] | None = None
    pairs: int | None = None
    poisoned_pairs: int | None = None
    seconds: float
    model: dict[str, str]
    data: str
    captions: str | None = None
    measured_on: str

    @classmethod
    def from_attack(cls, name: str, record: Mapping[str, Any]) -> Self:
        """Takes what is needed from the content of `attack.json` or `control.json`, which hold rates.

        Raises:
            DataError: It is the record of something else, or of another version.
        """
        try:
            return cls._from_rates(name, record)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"the record of the model '{name}' is none that this version wrote; remove its folder and make it "
                "again with `clip-antidote benchmark prepare`"
            ) from error

    @classmethod
    def _from_rates(cls, name: str, record: Mapping[str, Any]) -> Self:
        values = {key: record[key] for key in cls.model_fields if key in record}
        values |= {key: Metrics.from_dict(record[key]) for key in ("clean", "poisoned")}
        if record.get("modalities"):
            values["modalities"] = {
                modality: {key: Metrics.from_dict(rates) for key, rates in models.items()}
                for modality, models in record["modalities"].items()
            }
        return cls(**{**values, "name": name})


def compact(value: Any) -> str:
    """JSON on one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def fingerprint(value: Mapping[str, Any]) -> str:
    """The key under which settings stand in `settings.json`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def best_scores(scores: Sequence[ScoreRow]) -> tuple[Score, ...]:
    """The first few rows of a purification's own record."""
    return tuple(Score(row.class_name, row.score, row.alignment, row.inversion) for row in scores[:BEST_SCORES])
