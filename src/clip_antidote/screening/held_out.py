"""Scores of views that a score was not fitted to: other shots of the target, and dummies of another family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from clip_antidote.screening import SCORES
from clip_antidote.screening.base import ImageScore
from clip_antidote.screening.material import Material
from clip_antidote.screening.probe import Probe

Scored = dict[str, torch.Tensor]
"""Scores by name, each [N]."""

FOLDS = 4
"""Folds of the target's shots."""


def fit_scores(material: Material, names: Sequence[str]) -> dict[str, ImageScore[Any]]:
    """Fits the scores of these names with their defaults."""
    return {name: SCORES.get(name).fit(material) for name in names}


def score_all(scores: Mapping[str, ImageScore[Any]], probe: Probe, *, parts: bool = False) -> Scored:
    """Scores images by all scores; with `parts`, also what they are made of, as `score[part]`."""
    out: Scored = {}
    for name, score in scores.items():
        out[name] = score.score(probe)
        if parts:
            out.update({f"{name}[{part}]": values for part, values in score.parts(probe).items()})
    return out


def held_out_scores(
    material: Material,
    names: Sequence[str],
    clean: Mapping[int, torch.Tensor],
    dummies: Mapping[str, torch.Tensor],
) -> tuple[Scored, Scored]:
    """Scores every clean view without its shot, and every dummy-triggered view without the family of its dummy.

    With a single family of dummies, the views under them are told by others of the same family.

    Args:
        material: What the scores are fitted to.
        names: The scores.
        clean: Views of each shot of the target, float [k, 3, S, S] in [0, 1], by its number in `material.shots`.
        dummies: Views of other classes under the dummies of each family, float [m, 3, S, S], m at least `FOLDS`; they
            must not be among those of `material`.

    Returns:
        Scores of the clean views and of the views under dummies.
    """
    numbers = torch.tensor(sorted(clean))
    families = sorted(dummies)
    folds = numbers.tensor_split(min(FOLDS, len(numbers)))
    turns = {family: [i for i in range(len(folds)) if i % len(families) == n] for n, family in enumerate(families)}
    found: tuple[list[Scored], list[Scored]] = ([], [])
    for i, fold in enumerate(folds):
        family = families[i % len(families)]
        own = torch.cat([clean[int(number)] for number in fold])
        part = dummies[family].tensor_split(len(turns[family]))[turns[family].index(i)]
        out = fold if len(numbers) > 1 else numbers[:0]
        fitted = fit_scores(material.without(out, family), names)
        scored = score_all(fitted, Probe(material.model, torch.cat([own, part])))
        found[0].append({name: values[: len(own)] for name, values in scored.items()})
        found[1].append({name: values[len(own) :] for name, values in scored.items()})
    return _joined(found[0]), _joined(found[1])


def _joined(parts: Sequence[Scored]) -> Scored:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
