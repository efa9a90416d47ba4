"""What the second look brings, by the way in which the views are counted.

    python benchmarks/second_look.py SUSPECT [SUSPECT …] --clean tiny --data runs/problem --out SECOND_LOOK.json

For every suspect (a folder of `benchmark prepare`) and the default purification, blind: PA where the images that its
gate stops are answered in several ways, on clean validation images under the dummy triggers (by which the way was
chosen) and on test images under the true trigger; and PA of the clean model under the same trigger, by one look and
by the mean probabilities of all views.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from clip_antidote.benchmark.poisoned import PoisonedModel
from clip_antidote.benchmark.store import write_rows
from clip_antidote.data.folders import load_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.evaluation.evaluate import encode_test_images
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.prompts.templates import zero_shot_weights
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.pipeline import purify
from clip_antidote.purification.second_look import second_opinion
from clip_antidote.triggers import Trigger
from clip_antidote.versions import library_versions

VIEWS = {
    "mirror": [0],
    "crops 7/8": list(range(1, 11)),
    "crops 3/4": list(range(11, 21)),
    "all 21": list(range(21)),
}
DEFAULT = "tuned prompts, squared, all 21"


def clean_rates(model: DualEncoder, test: LabelledImages, trigger: Trigger) -> dict[str, float]:
    """PA of a model without backdoor, by one look and by the mean probabilities of all views."""
    features = encode_test_images(model, test, trigger=trigger)
    assert features.triggered is not None
    assert features.look_triggered is not None
    weights = zero_shot_weights(model, test.classes).cpu()
    views = features.look_triggered(torch.arange(len(test)))
    mean = (model.logit_scale.cpu() * views @ weights.T).softmax(-1).mean(1)
    one = (features.triggered @ weights.T).argmax(1)
    return {
        "clean model, one look": float((one == test.labels).float().mean()),
        "clean model, all views": float((mean.argmax(1) == test.labels).float().mean()),
    }


def forms(purified: PurifiedCLIP, images: LabelledImages, trigger: Trigger) -> dict[str, float]:
    """PA by the way in which stopped images are answered; empty where the gate stops none."""
    guard, scale = purified.guard, purified.model.logit_scale
    features = encode_test_images(purified.model, images, trigger=trigger)
    assert guard is not None
    assert features.triggered is not None
    assert features.look_triggered is not None
    clean, called, stopped, _ = guard.decide(features.triggered, features.layers_triggered)
    rows = stopped.nonzero().flatten()
    if not len(rows):
        return {}
    seen, target = features.look_triggered(rows), called[rows]

    def without_target(probabilities: torch.Tensor) -> torch.Tensor:
        return probabilities.scatter(1, target[:, None], -1)

    def tuned(views: torch.Tensor) -> torch.Tensor:
        out = scale * views @ purified.classifier
        return out.scatter(2, target[:, None, None].expand(-1, views.shape[1], 1), float("-inf")).softmax(-1)

    votes = {
        "tuned prompts, one look": without_target(features.triggered[rows] @ purified.classifier),
        "clean prompts, one look": without_target(features.triggered[rows] @ guard.clean),
    }
    for name, chosen in VIEWS.items():
        views = seen[:, chosen]
        by_clean, by_tuned = (scale * views @ guard.clean).softmax(-1).mean(1), tuned(views)
        votes |= {
            f"clean prompts, the target's votes dropped, {name}": without_target(by_clean),
            f"tuned prompts, {name}": without_target(by_tuned.mean(1)),
            f"tuned prompts, squared, {name}": second_opinion(views, purified.classifier, target, scale),
            f"both prompts, product, {name}": without_target(by_clean * by_tuned.mean(1)),
        }
    found = {}
    for name, logits in votes.items():
        answer = clean.argmax(1)
        answer[rows] = logits.argmax(1)
        found[name] = float((answer == features.labels).float().mean())
    return found


def validation_rates(purified: PurifiedCLIP, images: LabelledImages) -> dict[str, float]:
    """The same under the dummy triggers on validation images: means over those that the gate stops."""
    found = [rates for trigger in purified.triggers.values() if (rates := forms(purified, images, trigger))]
    return {name: mean(rates[name] for rates in found) for name in found[0]} if found else {}


def purified_model(suspect: PoisonedModel, shots: LabelledImages, keep: Path | None, seed: int) -> PurifiedCLIP:
    """Purifies a suspect, or takes it from `keep` where an earlier run left it."""
    kept = keep / f"{suspect.name}-{seed}" if keep else None
    if kept and kept.exists():
        return PurifiedCLIP.from_pretrained(kept, model=suspect.model)
    with torch.enable_grad():
        purified = purify(suspect.model, shots, CBPTConfig(seed=seed))
    if kept:
        purified.save_pretrained(kept)
    return purified


def drawn(images: LabelledImages, count: int, seed: int) -> LabelledImages:
    """Draws images by the seed."""
    return images.subset(torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count])


@torch.no_grad()
def main() -> None:
    """Measures every suspect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suspects", type=Path, nargs="+")
    parser.add_argument("--clean", default="tiny", help="the model before the attack")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=500, help="test images, drawn by the seed")
    parser.add_argument("--validation", type=int, default=200, help="validation images, drawn by the seed")
    parser.add_argument(
        "--keep", type=Path, help="folder for the purified models; those it holds are taken from there"
    )
    parser.add_argument("--clean-only", action="store_true", help="leave the purified models out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    test = drawn(load_images(options.data, split="test"), options.images, options.seed)
    validation = drawn(load_images(options.data, split="validation"), options.validation, options.seed)
    shots = load_images(options.data, shots=16, seed=options.seed)
    reference, rows = load_model(options.clean), []
    for folder in options.suspects:
        suspect = PoisonedModel.read(folder)
        row: dict[str, Any] = {"suspect": suspect.name, "clean": clean_rates(reference, test, suspect.trigger)}
        if not options.clean_only:
            purified = purified_model(suspect, shots, options.keep, options.seed)
            if purified.target_suspected == suspect.target:
                row["validation"] = validation_rates(purified, validation)
                row["test"] = forms(purified, test, suspect.trigger)
        rows.append(row)
        print(row, flush=True)
        counts = {"images": len(test), "validation_images": len(validation)}
        write_rows(options.out, rows, seed=options.seed, **counts, versions=library_versions())
    print_table(rows)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints means and single suspects as a Markdown table."""
    rows = [row for row in rows if row.get("validation")]
    if not rows:
        return
    names = [row["suspect"] for row in rows]
    print(f"| way | validation, dummies | test | {' | '.join(names)} |")
    print("|" + "---|" * (len(names) + 3))
    for form in rows[0]["test"]:
        rates = [row["test"][form] for row in rows]
        cells = [mean(row["validation"][form] for row in rows), mean(rates), *rates]
        label = f"**{form}**" if form == DEFAULT else form
        print(f"| {label} | {' | '.join(f'{100 * rate:.1f}' for rate in cells)} |")


if __name__ == "__main__":
    main()
