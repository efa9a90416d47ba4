"""What a scan says of a model, typed: `scan --json` is this, and console, page, SARIF and ML-BOM are made from it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from clip_antidote.config import Record
from clip_antidote.detection.limits import LIMITS
from clip_antidote.detection.outliers import FEWEST
from clip_antidote.detection.verdict import ClassVerdict, Finding, Verdict
from clip_antidote.inversion.config import CONFIRMS
from clip_antidote.reporting.report import ModelFacts

VERSION: Literal[1] = 1
"""Of the report's schema; a change that older readers would misunderstand raises it."""

NOTABLE = 0.1
"""Nats; what adds less to the evidence is not told."""


class ScannedModel(ModelFacts):
    """The model that was scanned; `architecture` is open_clip's name of it, empty where that is not known."""

    architecture: str = ""


class ScanTrigger(Record):
    """A dummy trigger of a suspected target, see `inversion.bank.Dummy`.

    Attributes:
        name: Its name; pictures of it carry it too.
        family: Its family.
        target: The suspected target.
        flip_rate: Share of views of other classes it sends there, where it was measured.
        size: Mean of its mask, or mean absolute change, in [0, 1], where it was measured.
    """

    name: str
    family: str
    target: str
    flip_rate: float | None
    size: float | None


class ScanReport(Record):
    """Everything that is known about a scan.

    Attributes:
        version: Of this schema.
        tool: Name of this program.
        created: When, in UTC.
        model: The suspect.
        data: Where the clean images came from.
        classes: Class names.
        shots: Clean images of the class that has the fewest.
        seed: Seed of everything random.
        verdict: Whether the model is suspicious, and of what.
        triggers: Dummy triggers of the suspected targets.
        stages: Seconds of every stage.
        seconds: Seconds in all.
        warnings: Sentences the reader has to see.
        limits: What a scan cannot see, in sentences.
        versions: Of the libraries that computed.
    """

    version: Literal[1] = VERSION
    tool: str = "clip-antidote"
    created: str = ""
    model: ScannedModel = ScannedModel()
    data: str = ""
    classes: tuple[str, ...]
    shots: int
    seed: int
    verdict: Verdict
    triggers: tuple[ScanTrigger, ...] = ()
    stages: dict[str, float] = Field(default_factory=dict)
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    limits: tuple[str, ...] = LIMITS
    versions: dict[str, str] = Field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the content of the JSON file."""
        return self.model_dump(mode="json")

    @property
    def headline(self) -> str:
        """The verdict in a few words."""
        if self.verdict.suspicious:
            return f"suspicious: a backdoor for {quoted(self.verdict.targets)} is likely"
        if self.verdict.unconfirmed:
            return f"not confirmed: {standing_out(self.verdict.unconfirmed)}"
        return "nothing found"

    @property
    def reason(self) -> str:
        """How sure the verdict is, as a sentence without a period."""
        return reason_for(self.verdict)


def quoted(names: tuple[str, ...]) -> str:
    """Writes class names in a row: 'a', 'b'."""
    return ", ".join(f"'{name}'" for name in names)


def standing_out(names: tuple[str, ...]) -> str:
    """Says of classes that they stand out unconfirmed, as a sentence without a period."""
    verb = "stands" if len(names) == 1 else "stand"
    return f"{quoted(names)} {verb} out as a target does, but no trigger that works was found"


def number(value: float) -> str:
    """Writes a p-value with two digits that say something."""
    return f"{value:.2g}"


def chance(value: float) -> str:
    """Writes a probability in whole percent, and rounds neither to certainty nor to impossibility."""
    return "< 1 %" if value < 0.005 else "> 99 %" if value > 0.995 else f"{value:.0%}".replace("%", " %")


def as_suspicious(verdict: Verdict) -> int | None:
    """How many clean models look at least as suspicious as this one; None where too few classes could be compared."""
    if verdict.classes < FEWEST:
        return None
    return round(verdict.p_value * (verdict.clean_models + 1)) - 1


def notable(entry: ClassVerdict) -> tuple[Finding, ...]:
    """What speaks for a class and adds something to its evidence, the strongest first."""
    return tuple(finding for finding in entry.findings if finding.weight >= NOTABLE)


def in_words(entry: ClassVerdict, most: int = 3) -> tuple[str, ...]:
    """What speaks for a class, as clauses, the strongest first."""
    return tuple(finding.meaning for finding in notable(entry)[:most])


def reason_for(verdict: Verdict) -> str:
    """Says how sure a verdict is, as a sentence without a period."""
    count, models = as_suspicious(verdict), verdict.clean_models
    p, among = f"p = {number(verdict.p_value)}", f"{models} clean model{'' if models == 1 else 's'}"
    if count is None:
        return f"{p}: with fewer than {FEWEST} classes none can stand out, so nothing can be said"
    if verdict.suspicious and count == 0:
        return (
            f"{p}; no clean model of {models} looked as suspicious; the smallest p there can be is "
            f"1/{models + 1} = {number(verdict.least_p)}"
        )
    alike = f"{p}: {count} of {among} look{'s' if count == 1 else ''} as suspicious"
    if verdict.unconfirmed and not verdict.suspicious:
        return f"{alike}, but the likeliest form of trigger sends less than {chance(CONFIRMS)} of the images there"
    if not verdict.suspicious and verdict.p_value <= verdict.alarm:
        return f"{alike}, but a backdoor is less likely than none ({chance(verdict.probability)})"
    return alike
