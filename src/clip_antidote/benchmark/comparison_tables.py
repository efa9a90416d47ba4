"""A comparison as Markdown and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clip_antidote.benchmark.comparing import COMPARED, Comparison, mcnemar_bounds, rates_of, smallest_p
from clip_antidote.benchmark.pairing import Pair, Pairs
from clip_antidote.benchmark.tables import BY_KEY, markdown
from clip_antidote.evaluation.metric_table import MISSING

COUNTED = ("ca", "asr", "pa")
"""Metrics that are shares of images; a fidelity is none."""


def head_of(key: str) -> str:
    """The name of a compared metric at the head of a column."""
    return BY_KEY[key].head if key in BY_KEY else key


def shown(key: str, value: float, *, signed: bool = False) -> str:
    """A value or a difference: points of percent, or of a fidelity as it is."""
    scale, decimals = (100, BY_KEY[key].decimals) if key in BY_KEY else (1, 3)
    return f"{scale * value:{'+' if signed else ''}.{decimals}f}".replace("-", "−")


def p_text(p: float | None) -> str:
    """A p-value for reading."""
    if p is None:
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def models_table(compared: Sequence[Comparison]) -> str:
    """One row per group and metric: means over models, their difference, wins and tests."""
    rows = []
    for made in compared:
        low, high = (shown(made.metric, end, signed=True) for end in made.interval) if made.interval else ("", "")
        rows.append(
            [
                made.group,
                head_of(made.metric),
                f"{made.models} ({made.cells})",
                shown(made.metric, made.a),
                shown(made.metric, made.b),
                shown(made.metric, made.difference, signed=True),
                f"[{low}, {high}]" if made.interval else MISSING,
                f"{made.wins} / {made.ties} / {made.losses}",
                p_text(made.sign_p),
                p_text(made.wilcoxon_p),
            ]
        )
    heads = ["compared", "metric", "models (cells)", "A", "B", "A − B", "95 % of models", "A better / same / worse"]
    return markdown([*heads, "sign test", "Wilcoxon"], rows)


def cells_table(pairs: Sequence[Pair]) -> str:
    """One row per shared cell: A − B in points, and where McNemar's p-value of it lies."""
    rows = []
    for pair in pairs:
        cells = []
        for key in COMPARED:
            difference = pair.difference(key)
            text = MISSING if difference is None else shown(key, difference, signed=True)
            rates = rates_of(pair, key) if key in COUNTED and difference is not None else None
            if rates is not None:
                low, high = mcnemar_bounds(*rates)
                text += f" (p {p_text(low)} to {p_text(high)})"
            cells.append(text)
        rows.append([pair.group, pair.a.suspect, str(pair.a.shots), str(pair.a.seed), *cells])
    return markdown(["compared", "suspect", "shots", "seed", *(f"{head_of(key)}, A − B" for key in COMPARED)], rows)


def sentences(compared: Sequence[Comparison], pairs: Pairs) -> list[str]:
    """What to know when reading the tables."""
    fewest = min(made.models for made in compared)
    said = [
        "The statistical unit is the model: cells of one model are averaged first, and the bootstrap draws models. "
        "Models of one base or one attack are more alike than the tests assume.",
        "A test per image (McNemar's) needs to know which images two runs share; records hold counts. The p in "
        "brackets is the range of its p-value over everything that the counts allow.",
    ]
    if smallest_p(fewest) > 0.05:
        said.append(
            f"With {fewest} {'model' if fewest == 1 else 'models'} no sign test can give less than "
            f"p = {smallest_p(fewest):.3g}; six are needed for less than 0.05."
        )
    if pairs.only_a or pairs.only_b:
        said.append(f"{pairs.only_a} cells are in A alone and {pairs.only_b} in B alone; they are left out.")
    return said + [f"Note: {note}." for note in pairs.notes]


def as_json(compared: Sequence[Comparison], pairs: Pairs) -> Mapping[str, object]:
    """A comparison, ready for JSON."""
    return {
        "unit": "model",
        "comparisons": [made.model_dump(mode="json") for made in compared],
        "cells": [
            {
                "suspect": pair.a.suspect,
                "group": pair.group,
                "shots": pair.a.shots,
                "seed": pair.a.seed,
                **{key: pair.difference(key) for key in COMPARED},
            }
            for pair in pairs.pairs
        ],
        "only_a": pairs.only_a,
        "only_b": pairs.only_b,
        "notes": list(pairs.notes),
    }
