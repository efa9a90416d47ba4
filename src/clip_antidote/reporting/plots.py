"""The charts of reports, as PNG files; drawn without pyplot, so nothing global changes."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

BLUE, ORANGE, GRAY, INK = "#0072b2", "#d55e00", "#a9b4c0", "#24292f"
_DPI = 110
_LABEL_LENGTH = 28


def finite(value: Any) -> bool:
    """Says whether a value is a number that can be drawn or written; None, NaN and infinity are not."""
    return isinstance(value, int | float) and math.isfinite(value)


def _label(name: Any) -> str:
    text = " ".join(str(name).split()) or "(no name)"
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return text if len(text) <= _LABEL_LENGTH else text[: _LABEL_LENGTH - 1] + "…"


def _canvas(names: Sequence[Any], marked: str | None) -> tuple[Any, Any]:
    """Returns a figure and its axes with one horizontal line per class, the first on top."""
    figure = Figure(figsize=(7.6, 0.95 + 0.27 * len(names)), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    # Class names come from folders: "$" must not start a formula.
    axes.set_yticks(range(len(names)), [_label(name) for name in names], fontsize=9, parse_math=False)
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_color(ORANGE if name == marked else INK)
        tick.set_fontweight("bold" if name == marked else "normal")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=9, colors=INK)
    axes.grid(axis="x", color="#e3e7ec", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRAY)
    return figure, axes


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def plot_scores(
    scores: Sequence[Mapping[str, Any]],
    *,
    threshold: float | None = None,
    suspected: str | None = None,
    limit: int = 15,
    label: str = "evidence that it is the target (nats)",
) -> bytes:
    """Draws the evidence against the most suspicious classes as bars.

    Args:
        scores: One mapping per class with "class" and "score"; entries without a finite score are left out.
        threshold: Scores above it are suspicious; drawn as a line.
        suspected: The class in the second color; it is shown even if its score is not among the highest.
        limit: The most classes to show.
        label: What the bars are.

    Returns:
        A PNG file.

    Raises:
        ValueError: No entry has a finite score.
    """
    rows = sorted((row for row in scores if finite(row.get("score"))), key=lambda row: -row["score"])
    if not rows:
        raise ValueError("no scores to plot")
    shown = rows[:limit]
    if suspected is not None and all(row["class"] != suspected for row in shown):
        shown = shown[: limit - 1] + [row for row in rows if row["class"] == suspected][:1]
    figure, axes = _canvas([row["class"] for row in shown], suspected)
    values = [row["score"] for row in shown]
    colors = [ORANGE if row["class"] == suspected else GRAY for row in shown]
    axes.barh(range(len(shown)), values, color=colors, height=0.66)
    for position, (row, value) in enumerate(zip(shown, values, strict=True)):
        text = f"{value:.1f}" + ("  suspected" if row["class"] == suspected else "")
        axes.annotate(
            text, (max(value, 0), position), (4, 0), textcoords="offset points", va="center", fontsize=8.5, color=INK
        )
    highest = max(*values, 0, threshold if finite(threshold) and threshold is not None else 0)
    lowest = min(*values, 0)
    axes.set_xlim(lowest, highest + 0.18 * ((highest - lowest) or 1))
    axes.set_xlabel(label, fontsize=9.5, color=INK)
    if threshold is not None and finite(threshold) and threshold >= lowest:  # below all bars there is nothing to show
        axes.axvline(threshold, color=INK, linestyle=(0, (5, 3)), linewidth=1.1)
        axes.annotate(
            f"threshold {threshold:.1f}",
            (threshold, 0.01),
            (4, 2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=8.5,
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )
    return _png(figure)


def plot_class_changes(
    per_class: Sequence[Mapping[str, Any]], *, suspected: str | None = None, limit: int = 30
) -> bytes:
    """Draws the clean accuracy of each class before and after, joined by a line.

    Args:
        per_class: One mapping per class with "class", "before" and "after" (fractions in [0, 1]); entries
            where one of them is missing are left out.
        suspected: A class to set in bold.
        limit: The most classes to show; those that change most come first.

    Returns:
        A PNG file: hollow circles before, filled ones after; blue for gains, orange for losses.

    Raises:
        ValueError: No class has both values.
    """
    rows = [row for row in per_class if finite(row.get("before")) and finite(row.get("after"))]
    if not rows:
        raise ValueError("no class has an accuracy before and after")
    shown = sorted(rows, key=lambda row: -abs(row["after"] - row["before"]))[:limit]
    shown.sort(key=lambda row: row["after"] - row["before"])
    figure, axes = _canvas([row["class"] for row in shown], suspected)
    for position, row in enumerate(shown):
        before, after = row["before"], row["after"]
        color = ORANGE if after < before else BLUE if after > before else GRAY
        axes.plot([before, after], [position, position], color=color, linewidth=2.4, alpha=0.55, zorder=2)
        axes.scatter([before], [position], s=34, facecolor="white", edgecolor=color, linewidth=1.5, zorder=3)
        axes.scatter([after], [position], s=34, color=color, zorder=4)
    axes.set_xlim(-0.03, 1.03)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    what = f" (the {limit} classes that change most, of {len(rows)})" if len(rows) > limit else ""
    axes.set_xlabel(f"clean accuracy, ○ before   ● after{what}", fontsize=9.5, color=INK)
    return _png(figure)
