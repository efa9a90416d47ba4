"""What defenses cost: seconds, memory, clean images, trained parameters; where the records say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from clip_antidote.benchmark.records import RunRecord
from clip_antidote.benchmark.tables import markdown
from clip_antidote.evaluation.metric_table import MISSING


@dataclass(frozen=True)
class Cost:
    """What runs of one defense cost; None where no record says it.

    Attributes:
        seconds: Mean duration.
        process: Largest peak of the process's memory, MiB.
        device: Largest peak of the accelerator's memory, MiB.
        clean_images: Most clean images.
        trained: Most parameters trained.
    """

    seconds: float | None
    process: int | None
    device: int | None
    clean_images: int | None
    trained: int | None

    def cells(self) -> list[str]:
        """The costs for reading, in the order of `HEADS`."""
        counts = [self.process, self.device, self.clean_images, self.trained]
        seconds = MISSING if self.seconds is None else f"{self.seconds:.0f}"
        return [seconds, *(MISSING if count is None else f"{count:,}" for count in counts)]


HEADS = ("seconds", "memory, MiB", "device memory, MiB", "clean images", "trained parameters")


def cost_of(runs: Sequence[RunRecord]) -> Cost:
    """Sums up what runs of one defense cost."""
    return Cost(
        seconds=mean(run.seconds for run in runs) if runs else None,
        process=max((run.peak_memory["process"] for run in runs if "process" in run.peak_memory), default=None),
        device=max((run.peak_memory["device"] for run in runs if "device" in run.peak_memory), default=None),
        clean_images=max((run.clean_images for run in runs if run.clean_images is not None), default=None),
        trained=max((run.trained for run in runs if run.trained is not None), default=None),
    )


def costs_table(runs: Sequence[RunRecord]) -> str:
    """One row per defense: mean seconds, and the most of everything else; memory is that of the whole process."""
    by_defense: dict[str, list[RunRecord]] = {}
    for run in runs:
        by_defense.setdefault(run.defense, []).append(run)
    return markdown(["defense", *HEADS], [[name, *cost_of(own).cells()] for name, own in by_defense.items()])
