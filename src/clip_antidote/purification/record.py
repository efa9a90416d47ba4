"""What is kept about a purification, typed: in the artefact's `config.json`, in reports and in benchmark records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from clip_antidote.config import Record
from clip_antidote.detection.search import SearchResult
from clip_antidote.detection.verdict import Verdict
from clip_antidote.inversion.bank import Dummy
from clip_antidote.inversion.views import Observation
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.stopwatch import Stopwatch
from clip_antidote.versions import library_versions

VERSION: Literal[1] = 1
"""Of the record's schema; a change that older readers would misunderstand raises it."""

MOST_SCORES = 15
"""How many classes a record has the evidence of."""

Method = Literal["cbpt", "cbpt-gate"]

FORMER = {
    "inversion": ("survey_sparsity", "survey_bound"),
    "survey": ("lr", "shortlist", "second_steps", "second_lr", "second_batch", "second_sparsity", "second_bound"),
}
"""Settings that were there before 2026-11-27, by their group: the survey inverted masks in two passes."""


class ScoreRow(Record):
    """The evidence against one class, see `detection.scores.ClassScore`."""

    class_name: str = Field(alias="class")
    score: float
    alignment: float
    inversion: float | None
    distance: float | None = None


class TriggerRow(Record):
    """A dummy trigger, see `inversion.bank.Dummy`.

    Attributes:
        name: Its name in the artefact.
        family: Its family.
        hypothesis: The target class it belongs to.
        flip_rate: Share of views of other classes it sends there, where it was measured.
        size: How large it is, where it was measured.
        file: Its folder in the artefact.
    """

    name: str
    family: str
    hypothesis: str
    flip_rate: float | None
    size: float | None
    file: str


class PurificationRecord(Record):
    """How a purified classifier was made and what was found.

    Attributes:
        version: Of this schema.
        method: "cbpt-gate" where gates guard the targets, "cbpt" for one weight per class.
        targets_suspected: Names of the suspected targets, the most suspicious first.
        guarded: Names of the classes with a gate: the suspected targets, then others that nobody accuses.
        shots: Clean images of the class that has the fewest.
        seed: Seed of everything random.
        settings: All settings. Threshold and second look are those of the classifier that holds the record.
        verdict: Whether the model is suspicious; None where the target was told.
        scores: The evidence against the most suspicious classes, the highest first.
        triggers: The dummy triggers.
        stages: Seconds of every stage.
        seconds: Seconds in all.
        versions: Of the libraries that computed.
    """

    version: Literal[1] = VERSION
    method: Method
    targets_suspected: tuple[str, ...]
    guarded: tuple[str, ...] = ()
    shots: int
    seed: int
    settings: CBPTConfig
    verdict: Verdict | None = None
    scores: tuple[ScoreRow, ...] = ()
    triggers: tuple[TriggerRow, ...] = ()
    stages: dict[str, float] = Field(default_factory=dict)
    seconds: float = 0.0
    versions: dict[str, str] = Field(default_factory=dict)

    @field_validator("settings", mode="before")
    @classmethod
    def _without_former(cls, settings: Any) -> Any:
        """Leaves out what an artefact of an earlier version says of settings that there are no more."""
        return _without(settings, "") if isinstance(settings, Mapping) else settings

    @property
    def target_suspected(self) -> str | None:
        """Name of the most suspicious target, None where nothing was found."""
        return self.targets_suspected[0] if self.targets_suspected else None

    @property
    def evidence_needed(self) -> float | None:
        """What the evidence against a class has to exceed, where known."""
        return self.verdict.needed if self.verdict else None

    def with_head(self, *, threshold: float, second_look: bool) -> PurificationRecord:
        """Returns the record of the same purification, answered by a head with this threshold and second look."""
        gate = self.settings.gate.model_copy(update={"threshold": threshold, "second_look": second_look})
        return self.model_copy(update={"settings": self.settings.model_copy(update={"gate": gate})})


def _without(settings: Mapping[str, Any], group: str) -> dict[str, Any]:
    return {
        name: _without(value, name) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if name not in FORMER.get(group, ())
    }


def trigger_names(dummies: Sequence[Dummy]) -> list[str]:
    """Names of dummy triggers in artefacts and reports, in their order."""
    return [f"{number:02d}-{dummy.family}" for number, dummy in enumerate(dummies)]


def make_record(
    seen: Observation, found: SearchResult, config: CBPTConfig, *, guarded: bool, watch: Stopwatch
) -> PurificationRecord:
    """Puts together what is known at the end of a purification.

    Args:
        seen: The suspect and its shots.
        found: What stage 1 found.
        config: Settings.
        guarded: Whether there are gates.
        watch: Has timed the stages.
    """
    classes, doubtful = seen.classes, found.verdict.unconfirmed if found.verdict else ()
    return PurificationRecord(
        method="cbpt-gate" if guarded else "cbpt",
        targets_suspected=tuple(classes[label] for label in found.targets if classes[label] not in doubtful),
        guarded=tuple(classes[label] for label in found.guarded) if guarded else (),
        shots=int(seen.shots.labels.bincount().min()),
        seed=config.seed,
        settings=config,
        verdict=found.verdict,
        scores=score_rows(found, classes),
        triggers=tuple(
            TriggerRow(
                name=name,
                family=dummy.family,
                hypothesis=classes[dummy.target],
                flip_rate=None if dummy.flip_rate is None else round(dummy.flip_rate, 4),
                size=None if dummy.size is None else round(dummy.size, 5),
                file=f"triggers/{name}",
            )
            for name, dummy in zip(trigger_names(found.dummies), found.dummies, strict=True)
        ),
        stages={name: round(value, 2) for name, value in watch.seconds.items()},
        seconds=round(watch.total, 2),
        versions=library_versions(seen.model.device),
    )


def score_rows(found: SearchResult, classes: tuple[str, ...]) -> tuple[ScoreRow, ...]:
    """The evidence against the most suspicious classes, the highest first."""
    return tuple(
        ScoreRow(
            class_name=classes[score.label],
            score=round(score.score, 4),
            alignment=round(score.alignment, 4),
            inversion=None if score.inversion is None else round(score.inversion, 4),
            distance=None if score.distance is None else round(score.distance, 4),
        )
        for score in found.scores[:MOST_SCORES]
    )
