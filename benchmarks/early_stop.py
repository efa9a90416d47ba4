"""A second look that ends as soon as the vote is decided: how many views it takes, and what PA is left.

    python benchmarks/early_stop.py runs/population --data runs/problem --keep FOLDER \\
        --out docs/records/early_stop.json [--models NAME …]

On triggered test images that the gate of a purified model stops (`--keep` of `image_scores.py`). The views come in a
fixed order that mixes sides and corners. Two rules stop the vote: "certain", once the runner-up cannot catch up even
if all other views were wholly for it, which changes no answer; and "lead LEAD", once the leader is that far ahead of
the runner-up, in votes of at most 1 each. Not part of the package: a prototype.
"""

from __future__ import annotations

import argparse
import json
import zlib
from pathlib import Path
from typing import Any

import torch

from clip_antidote.benchmark.store import write_rows
from clip_antidote.benchmark.told_models import Suspect, read_told
from clip_antidote.data.folders import load_images
from clip_antidote.evaluation.evaluate import encode_test_images
from clip_antidote.models import load_model
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.second_look import view_votes
from clip_antidote.versions import library_versions

ORDER = (5, 10, 0, 15, 1, 9, 3, 7, 20, 2, 4, 6, 8, 11, 19, 13, 17, 12, 14, 16, 18)
"""Of the 21 views: the center crops first, then the mirror image, then corners across."""

LEADS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
IMAGES = 250


def taken(votes: torch.Tensor, *, lead: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts votes [n, K, C] view by view and stops.

    Args:
        votes: What each view says, in [0, 1].
        lead: How far ahead the leader must be; None for the lead that no later view can make up for.

    Returns:
        The answer [n], and how many views it took [n].
    """
    sums, count = votes.cumsum(dim=1), votes.shape[1]
    best = sums.topk(2, dim=2)
    ahead = best.values[..., 0] - best.values[..., 1]
    needed = torch.arange(count - 1, -1, -1).float() if lead is None else torch.full((count,), lead)
    stop = ahead > needed
    stop[:, -1] = True
    views = stop.int().argmax(dim=1)
    return best.indices[torch.arange(len(votes)), views, 0], views + 1


@torch.no_grad()
def measured(suspect: Suspect, data: str, keep: Path) -> dict[str, Any]:
    """Views and PA of one model under every rule."""
    model = load_model(suspect.spec)
    purified = PurifiedCLIP.from_pretrained(keep / suspect.folder, model=model)
    guard = purified.guard
    assert guard is not None
    test = load_images(data, split="test").at_most(IMAGES, seed=zlib.crc32(suspect.name.encode()))
    features = encode_test_images(model, test, trigger=suspect.trigger)
    assert features.triggered is not None
    assert features.look_triggered is not None
    decision = guard.decide(features.triggered, features.layers_triggered)
    rows = decision.triggered.nonzero().flatten()
    out: dict[str, Any] = {"model": suspect.name, "images": len(test), "stopped": len(rows)}
    if not len(rows):
        return out
    scale = model.logit_scale.detach()
    votes = view_votes(features.look_triggered(rows), purified.classifier, decision.called[rows], scale)[
        :, list(ORDER)
    ]
    truth = test.labels[rows]
    out["one_look"] = int(
        (_without(features.triggered[rows] @ purified.classifier, decision.called[rows]) == truth).sum()
    )
    out["all_views"] = int((votes.sum(1).argmax(1) == truth).sum())
    for lead in (None, *LEADS):
        answer, views = taken(votes, lead=lead)
        name = "certain" if lead is None else f"lead {lead:g}"
        out[name] = {"views": round(float(views.float().mean()), 2), "right": int((answer == truth).sum())}
    return out


def _without(logits: torch.Tensor, called: torch.Tensor) -> torch.Tensor:
    return logits.scatter(1, called[:, None], float("-inf")).argmax(1)


def main() -> None:
    """Measures every model that `--keep` holds and `--out` does not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("population", help='folder of `benchmark population` or `benchmark prepare`, or "demo"')
    parser.add_argument("--data", required=True)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=[])
    options = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    for suspect in read_told(options.population, options.models):
        kept = (options.keep / suspect.folder).exists()
        if kept and all(row["model"] != suspect.name for row in rows):
            rows.append(measured(suspect, options.data, options.keep))
            print(rows[-1], flush=True)
            write_rows(options.out, rows, versions=library_versions())


if __name__ == "__main__":
    main()
