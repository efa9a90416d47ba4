"""What the second look brings, and what looking ten times would bring a model without a backdoor.

    python benchmarks/second_look.py SUSPECT [SUSPECT …] --clean tiny --data runs/problem --out SECOND_LOOK.json

For every suspect (a folder of `benchmark prepare`): PA of the purified model where the images that its gate stops are
answered in several ways, and PA of the clean model under the same trigger, by one look and by the ten views of the
second look. The purified model is the default one, blind.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from clip_antidote.data.folders import load_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.evaluation.evaluate import TestFeatures, encode_test_images
from clip_antidote.files import write_json
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.prompts.templates import zero_shot_weights
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.pipeline import library_versions, purify
from clip_antidote.triggers import Trigger, load_trigger


def clean_rates(model: DualEncoder, test: LabelledImages, trigger: Trigger) -> dict[str, float]:
    """PA of a model without backdoor, by one look and by the mean probabilities of ten views."""
    features = encode_test_images(model, test, trigger=trigger)
    assert features.triggered is not None
    assert features.look_triggered is not None
    weights = zero_shot_weights(model, test.classes).cpu()
    views = features.look_triggered(torch.arange(len(test)))
    mean = (model.logit_scale.cpu() * views @ weights.T).softmax(-1).mean(1)
    one = (features.triggered @ weights.T).argmax(1)
    return {
        "clean model, one look": float((one == test.labels).float().mean()),
        "clean model, ten views": float((mean.argmax(1) == test.labels).float().mean()),
    }


def forms(purified: PurifiedCLIP, features: TestFeatures) -> dict[str, float]:
    """PA by the way in which stopped images are answered."""
    guard = purified.guard
    assert guard is not None
    assert features.triggered is not None
    assert features.look_triggered is not None
    clean, called, stopped = guard.decide(features.triggered)
    rows = stopped.nonzero().flatten()
    views, target, scale = features.look_triggered(rows), called[rows], purified.model.logit_scale
    by_clean, by_tuned = views @ guard.clean, views @ purified.classifier

    def without_target(similarities: torch.Tensor) -> torch.Tensor:
        out = similarities.clone()
        out[torch.arange(len(rows)), ..., target] = -2.0
        return out

    votes = {
        "tuned prompts, one look": without_target(features.triggered[rows] @ purified.classifier),
        "clean prompts, one look": without_target(features.triggered[rows] @ guard.clean),
        "ten views, clean prompts, the target's votes dropped (default)": guard.second_opinion(views, target, scale),
        "ten views, clean prompts, the target left out": (scale * without_target(by_clean)).softmax(-1).sum(1),
        "ten views, tuned prompts, the target left out": (scale * without_target(by_tuned)).softmax(-1).sum(1),
        "center crop and its mirror image": guard.second_opinion(views[:, [4, 9]], target, scale),
    }
    found = {}
    for name, logits in votes.items():
        answer = clean.argmax(1)
        answer[rows] = logits.argmax(1)
        found[name] = float((answer == features.labels).float().mean())
    found["views still called the target"] = float((by_clean.argmax(-1) == target[:, None]).float().mean())
    return found


@torch.no_grad()
def main() -> None:
    """Measures every suspect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suspects", type=Path, nargs="+")
    parser.add_argument("--clean", default="tiny", help="the model before the attack")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1500, help="test images, drawn by the seed")
    parser.add_argument("--clean-only", action="store_true", help="leave the purified models out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    test = load_images(options.data, split="test")
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(options.seed))
    test = test.subset(order[: options.images])
    shots = load_images(options.data, shots=16, seed=options.seed)
    reference, rows = load_model(options.clean), []
    for folder in options.suspects:
        trigger = load_trigger(folder / "trigger")
        target = json.loads((folder / "attack.json").read_text(encoding="utf-8"))["target"]
        found = clean_rates(reference, test, trigger)
        if not options.clean_only:
            model = load_model(f"local-dir:{folder}")
            with torch.enable_grad():
                purified = purify(model, shots, CBPTConfig(seed=options.seed))
            if purified.target_suspected == target:
                found |= forms(purified, encode_test_images(model, test, trigger=trigger))
        rows.append({"suspect": folder.name, **found})
        for name, value in found.items():
            print(f"| {folder.name} | {name} | {100 * value:.1f} |", flush=True)
        write_json(
            options.out,
            {"seed": options.seed, "images": len(test), "rows": rows, "versions": library_versions()},
        )


if __name__ == "__main__":
    main()
