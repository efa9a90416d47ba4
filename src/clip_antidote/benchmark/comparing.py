"""Two grids, or two defenses of one grid, compared pair by pair; the statistical unit is the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean

import numpy as np
from scipy.stats import binomtest, wilcoxon

from clip_antidote.benchmark.pairing import Pair, metric_value
from clip_antidote.config import Record
from clip_antidote.errors import DataError
from clip_antidote.evaluation.intervals import Rate
from clip_antidote.evaluation.metric_table import METRICS

RESAMPLES = 10_000
FEWEST_FOR_INTERVAL = 3
"""Of fewer models a bootstrap knows nothing."""

COMPARED = {metric.key: metric.higher_is_better for metric in METRICS if metric.key in ("ca", "asr", "pa")} | {
    "fidelity": True
}
"""What is compared, and whether more of it is better."""

SAME = 1e-9
"""Differences up to this are ties: rates are ratios of counts, and only rounding is smaller."""


class Comparison(Record):
    """One metric of two grids or defenses, over the models they share.

    Attributes:
        group: What is compared.
        metric: Key of the metric.
        models: Models with this metric in both.
        cells: Cells with it: models, seeds and shots.
        a: Mean of A over models; cells of a model are averaged first.
        b: Mean of B.
        difference: Mean of A − B.
        interval: Its 95 % percentile bootstrap interval over models; None of fewer than three.
        wins: Models on which A is better.
        ties: Models on which they are the same.
        losses: Models on which A is worse.
        sign_p: Two-sided p-value of the exact sign test, ties left out; None where all are ties.
        wilcoxon_p: Two-sided p-value of Wilcoxon's signed-rank test, ties left out; exact up to 50 models whose
            differences are all of another size.
    """

    group: str
    metric: str
    models: int
    cells: int
    a: float
    b: float
    difference: float
    interval: tuple[float, float] | None
    wins: int
    ties: int
    losses: int
    sign_p: float | None
    wilcoxon_p: float | None


def compare(pairs: Sequence[Pair], *, seed: int = 0) -> list[Comparison]:
    """Compares A with B, per group and metric.

    Args:
        pairs: The shared cells.
        seed: Seed of the bootstrap.
    """
    compared = []
    for group in dict.fromkeys(pair.group for pair in pairs):
        own = [pair for pair in pairs if pair.group == group]
        compared += [made for key in COMPARED if (made := _compare_metric(own, group, key, seed)) is not None]
    return compared


def _compare_metric(pairs: Sequence[Pair], group: str, key: str, seed: int) -> Comparison | None:
    measured = [pair for pair in pairs if pair.difference(key) is not None]
    if not measured:
        return None
    by_model: dict[str, list[Pair]] = {}
    for pair in measured:
        by_model.setdefault(pair.a.suspect, []).append(pair)
    a, b = ([mean(_values(own, side, key)) for own in by_model.values()] for side in ("a", "b"))
    differences = [x - y for x, y in zip(a, b, strict=True)]
    better = [d if COMPARED[key] else -d for d in differences]
    wins, losses = sum(d > SAME for d in better), sum(d < -SAME for d in better)
    untied = [d for d in better if abs(d) > SAME]
    return Comparison(
        group=group,
        metric=key,
        models=len(by_model),
        cells=len(measured),
        a=mean(a),
        b=mean(b),
        difference=mean(differences),
        interval=bootstrap_interval(differences, seed=seed),
        wins=wins,
        ties=len(by_model) - len(untied),
        losses=losses,
        sign_p=float(binomtest(wins, len(untied)).pvalue) if untied else None,
        wilcoxon_p=float(wilcoxon(np.round(untied, 9)).pvalue) if untied else None,
    )


def _values(pairs: Sequence[Pair], side: str, key: str) -> list[float]:
    return [value for pair in pairs if (value := metric_value(getattr(pair, side), key)) is not None]


def bootstrap_interval(differences: Sequence[float], *, seed: int = 0) -> tuple[float, float] | None:
    """The 95 % percentile bootstrap interval of a mean of paired differences, by resampling the pairs.

    Args:
        differences: One per model.
        seed: Seed of the draws.

    Returns:
        Lower and upper bound; None of fewer than three models.
    """
    if len(differences) < FEWEST_FOR_INTERVAL:
        return None
    values = np.asarray(differences)
    rows = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[rows].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def mcnemar_bounds(a: Rate, b: Rate) -> tuple[float, float]:
    """Between which values the p-value of McNemar's exact test lies, of two rates on the same images.

    The test needs how many images each of the two alone gets, x and y. Records hold counts: x − y is known, x + y is
    not. It is at least |x − y|, where p is smallest, and at most as large as the counts allow.

    Args:
        a: The first rate.
        b: The second, over the same images.

    Returns:
        The smallest and the largest p-value that fit the counts.

    Raises:
        DataError: The counts are of different numbers of images.
    """
    if a.count != b.count:
        raise DataError(
            f"rates over {a.count} and {b.count} images are not of the same images; compare the models alone"
        )
    apart = abs(a.successes - b.successes)
    total = a.successes + b.successes
    most = min(total, 2 * a.count - total)
    return _mcnemar(apart, apart), _mcnemar(apart, most)


def _mcnemar(apart: int, discordant: int) -> float:
    """Exact two-sided p-value where the two differ on `discordant` images, one being ahead by `apart` of them."""
    return float(binomtest((discordant + apart) // 2, discordant).pvalue) if discordant else 1.0


def rates_of(pair: Pair, key: str) -> tuple[Rate, Rate] | None:
    """Both rates of a metric that is a share of images, where they are over as many images."""
    a, b = (getattr(run.after, key, None) for run in (pair.a, pair.b))
    if isinstance(a, Rate) and isinstance(b, Rate) and a.count == b.count:
        return a, b
    return None


def smallest_p(models: int) -> float:
    """The smallest p-value that a two-sided sign test of so many models can give."""
    return min(1.0, math.ldexp(2.0, -models))
