"""What a report says, typed: `report.json` is this, and HTML page, model card and console are made from it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from clip_antidote.config import Record
from clip_antidote.purification.hub_card import CAVEAT, public_spec
from clip_antidote.purification.record import PurificationRecord

Rates = dict[str, Any]
"""A measurement as `Metrics.to_dict` gives it: keys of the metric table, with their intervals and counts."""


class ModelFacts(Record):
    """The suspect model."""

    spec: str = ""
    sha256: str = ""
    image_size: int | None = None
    parameters: int | None = None

    @property
    def public_spec(self) -> str:
        """The spec with file paths shortened to the file name, so that a shared report shows no folders."""
        return public_spec(self.spec)


class ClassChange(Record):
    """Clean accuracy of one class before and after, None where it has no test images."""

    class_name: str = Field(alias="class")
    before: float | None
    after: float | None
    count: int


class PlantedAttack(Record):
    """The attack of a demo, which the reader is told afterwards."""

    name: str
    poison_rate: float
    steps: int
    seconds: float


class Report(Record):
    """Everything that is known about a purification.

    Attributes:
        tool: Name of this program.
        version: Its version.
        created: When, in UTC.
        command: Name of the command.
        model: The suspect.
        purification: How it was purified and what was found.
        classes: Class names.
        data: Where the clean images came from.
        measured_on: What the rates were measured on, in words.
        before: Rates of the suspect with its hand-written classifier.
        after: Rates of the purified classifier.
        after_single: Rates of its published form, one weight per class, where that is another.
        reference: Rates of the clean model under the same trigger, where there is one.
        per_class: Clean accuracy by class.
        warnings: Sentences the reader has to see.
        caveat: What the result does not protect.
        target_true: The attacker's target, where it is known.
        attack: The attack, where it is known.
    """

    tool: str = "clip-antidote"
    version: str = ""
    created: str = ""
    command: str = "purify"
    model: ModelFacts = ModelFacts()
    purification: PurificationRecord
    classes: tuple[str, ...]
    data: str = ""
    measured_on: str = ""
    before: Rates = Field(default_factory=dict)
    after: Rates = Field(default_factory=dict)
    after_single: Rates | None = None
    reference: Rates | None = None
    per_class: tuple[ClassChange, ...] = ()
    warnings: tuple[str, ...] = ()
    caveat: str = CAVEAT
    target_true: str | None = None
    attack: PlantedAttack | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `report.json`."""
        return self.model_dump(mode="json", by_alias=True)
