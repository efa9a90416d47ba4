"""The one list of what is measured: keys in records, words for readers, and how a rate is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """One thing that is measured.

    Attributes:
        key: Its name in reports and records.
        label: Its name for readers.
        meaning: What is counted, as half a sentence.
        higher_is_better: Which way is better; None where neither is.
        head: Its name at the head of a column of a benchmark table.
        decimals: Decimals of a percentage in such a table; attack success lives near zero.
        counted: Whether it is a share of images, with an interval. A mean of shares is not.
        in_tables: Whether benchmark tables show it.
        along_curve: Whether it is measured at every threshold of the gate.
    """

    key: str
    label: str
    meaning: str
    higher_is_better: bool | None
    head: str
    decimals: int = 1
    counted: bool = True
    in_tables: bool = True
    along_curve: bool = False

    def cell(self, metrics: Mapping[str, Any]) -> str:
        """This metric of a report's measurement with its interval, where it has one, "–" where there is none."""
        interval = metrics.get(f"{self.key}_interval")
        text = percent(metrics.get(self.key))
        return f"{text} {brackets(interval)}" if interval and text != MISSING else text


METRICS = (
    Metric(
        "ca",
        "Clean accuracy (CA)",
        "share of clean test images that get their true class",
        True,
        head="CA",
        along_curve=True,
    ),
    Metric(
        "mean_per_class_recall",
        "Mean per-class recall",
        "clean accuracy of every class, averaged: rare classes count as much as frequent ones",
        True,
        head="mean recall",
        counted=False,
        along_curve=True,
    ),
    Metric(
        "asr",
        "Attack success rate (ASR)",
        "share of triggered test images of the other classes that are called the target",
        False,
        head="ASR",
        decimals=2,
        along_curve=True,
    ),
    Metric(
        "asr_all",
        "ASR, all images",
        "the same over all test images, those of the target class included",
        False,
        head="ASR, all",
        in_tables=False,
    ),
    Metric(
        "asr_floor",
        "ASR floor",
        "share of the same images without the trigger that are called the target: ordinary confusion",
        None,
        head="floor",
    ),
    Metric(
        "pa",
        "Recovery (PA)",
        "share of triggered test images that get their true class",
        True,
        head="PA",
        along_curve=True,
    ),
    Metric(
        "target_ca",
        "CA of the target class",
        "clean accuracy on images of the target class alone",
        True,
        head="target CA",
        along_curve=True,
    ),
)

MISSING = "–"
"""What stands where nothing was measured."""


def percent(rate: Any) -> str:
    """Writes a fraction as a percentage; two decimals below 1 %, a dash when it was not measured."""
    if not isinstance(rate, int | float) or not math.isfinite(rate):
        return MISSING
    return f"{100 * rate:.2f} %" if 0 < rate < 0.01 else f"{100 * rate:.1f} %"


def brackets(interval: tuple[float, float] | list[float]) -> str:
    """Writes an interval of fractions in percent."""
    low, high = interval
    return f"[{100 * low:.1f}, {100 * high:.1f}]"
