"""What a scan cannot see; the one list that console, page and files show."""

from __future__ import annotations

LIMITS: tuple[str, ...] = (
    "A scan that finds nothing is no proof that a model is clean. Of small models of other kinds with a known "
    "backdoor 57 of 60 were found at 120 classes, 22 of 28 at 40, 26 of 28 at 20 and 54 of 60 at 10; of clean ones "
    "2 of 58, 2 of 50, 2 of 50 and 0 of 65 stood out as much.",
    "Little poison leaves little trace where the trigger was optimized for the model: of two such models with 0.3 "
    "and 1 % of poison one was found at 120 classes, and none at 40.",
    "Only the classes of the list are looked at: a backdoor whose target is not among them is not seen (0 of 15 "
    "were).",
    "Several targets in one model hide each other: a further one is named only where it stands out more than "
    "blameless classes of poisoned models do (14 of 17 targets in seven models were named).",
    "A backdoor that sends every class to another one (all-to-all) has no single target; it is neither seen nor "
    "removed.",
    "Triggers of other forms than those that are tried, such as oblique waves or the reflection of a photograph, are "
    "told by the text of their target alone, and may be missed.",
    "Triggers that are concepts, such as a kind of object in the picture or a word in the text, are neither a patch "
    "nor a faint pattern, and may be missed.",
    "An attacker who knows the scan and imitates the features of a clean target class may pass it.",
    "The p-value holds for models like the clean ones that it was compared with; for other kinds it is less sure.",
)
"""Sentences; the rates are those of docs/detection.md, by evidence that never saw the kind of image tower."""
