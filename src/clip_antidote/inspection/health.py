"""What the values of tensors tell: NaN, Inf, zeros, dead channels, absurd sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from clip_antidote.inspection.record import Finding, TensorFacts
from clip_antidote.inspection.rules import finding
from clip_antidote.inspection.tensors import StoredTensor
from clip_antidote.models.pickle_dry_run import ExcessError
from clip_antidote.models.weights import impossible_range, is_dropped

LARGEST = 1e4
"""Weights of trained models stay below some hundred."""

LARGEST_STATISTIC = 1e7
"""Running variances follow the square of what they measure."""

MOST_DEAD = 0.5
"""Share of rows of zeros from which on it is a finding: published ResNets have some."""

MOST_PER_RULE = 20
"""Findings that are listed of each rule; the rest is counted."""

_CHUNK = 4_000_000
_MAY_BE_ZERO = ("bias", "running_mean", "num_batches_tracked", "logit_bias", "in_proj_bias")


@dataclass
class _Values:
    """What one pass over a tensor finds."""

    nan: int = 0
    inf: int = 0
    largest: float = 0.0
    dead: int = 0
    rows: int = 0


def check_tensors(tensors: Iterable[StoredTensor], file: str) -> tuple[TensorFacts, list[Finding]]:
    """Reads every tensor once, one at a time.

    Args:
        tensors: The tensors of a file.
        file: Its name, for the findings.

    Returns:
        The facts, and findings in the order of the tensors.
    """
    facts = {"count": 0, "parameters": 0, "not_finite": 0, "zero": 0, "dead_channels": 0}
    dtypes: Counter[str] = Counter()
    largest: tuple[float, str] | None = None
    findings: list[Finding] = []
    for tensor in tensors:
        facts["count"] += 1
        facts["parameters"] += int(torch.Size(tensor.shape).numel())
        dtypes[tensor.dtype] += 1
        if tensor.load is None or is_dropped(tensor.name):
            continue
        try:
            value = tensor.load()
            if not value.is_floating_point() or not value.numel():
                continue
            seen = _look(value)
            range_fault = None if seen.nan or seen.inf else impossible_range(tensor.name, value)
        except (ExcessError, RuntimeError, ValueError, OverflowError, MemoryError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            findings.append(
                finding("damaged", f"{tensor.name} cannot be read: {reason:.200}", file, tensor=tensor.name)
            )
            continue
        facts["not_finite"] += bool(seen.nan or seen.inf)
        facts["zero"] += _is_zero(tensor.name, seen)
        facts["dead_channels"] += seen.dead
        if not (seen.nan or seen.inf) and (largest is None or seen.largest > largest[0]):
            largest = (seen.largest, tensor.name)
        findings += _judge(tensor, seen, range_fault, file)
    size, place = largest or (None, None)
    return TensorFacts(**facts, dtypes=dict(dtypes), largest=size, largest_in=place), _capped(findings)


def _look(value: torch.Tensor) -> _Values:
    seen = _Values()
    for chunk in _chunks(value):
        part = chunk.float() if chunk.dtype.itemsize < 4 else chunk
        rows = part.reshape(len(part), -1) if part.dim() > 1 else part.reshape(1, -1)
        low, high = rows.amin(1), rows.amax(1)
        if not bool((low.isfinite() & high.isfinite()).all()):
            seen.nan += int(rows.isnan().sum())
            seen.inf += int(rows.isinf().sum())
        seen.largest = max(seen.largest, float(-low.min()), float(high.max()))
        if value.dim() > 1:
            seen.rows += len(rows)
            seen.dead += int(((low == 0) & (high == 0)).sum())
    return seen


def _chunks(value: torch.Tensor) -> Iterator[torch.Tensor]:
    """Parts along the first dimension, of a bounded size where one row has it."""
    if not value.dim():
        yield value.reshape(1)
        return
    step = max(1, _CHUNK * len(value) // value.numel())
    yield from value.split(step)


def _is_zero(name: str, seen: _Values) -> bool:
    return seen.largest == 0 and not seen.nan and not name.endswith(_MAY_BE_ZERO)


def _judge(tensor: StoredTensor, seen: _Values, range_fault: str | None, file: str) -> list[Finding]:
    name = tensor.name
    size = "×".join(map(str, tensor.shape)) or "a scalar"
    if seen.nan or seen.inf:
        return [finding("not-finite", f"{name} ({size}) has {seen.nan} NaN and {seen.inf} Inf", file, tensor=name)]
    if range_fault is not None:
        return [finding("impossible", f"{name} has what no training gives ({range_fault})", file, tensor=name)]
    found = []
    limit = LARGEST_STATISTIC if "running_" in name else LARGEST
    if seen.largest > limit:
        message = f"{name} ({size}) has values up to {seen.largest:.3g}, above {limit:.0e}"
        found.append(finding("exploding", message, file, tensor=name))
    if _is_zero(name, seen):
        found.append(finding("zero-tensor", f"{name} ({size}) is zero everywhere", file, tensor=name))
    elif seen.dead:
        rule = "dead-channels" if seen.dead > MOST_DEAD * seen.rows else "some-dead-channels"
        message = f"{name} ({size}) has {seen.dead} of {seen.rows} channels that are zero"
        found.append(finding(rule, message, file, tensor=name))
    return found


def _capped(findings: list[Finding]) -> list[Finding]:
    counted: Counter[str] = Counter()
    kept = []
    for found in findings:
        counted[found.rule] += 1
        if counted[found.rule] <= MOST_PER_RULE:
            kept.append(found)
    for rule, count in counted.items():
        if count > MOST_PER_RULE:
            more = count - MOST_PER_RULE
            kept.append(finding(rule, f"{more} more tensors have the same", findings[0].file))
    return kept
