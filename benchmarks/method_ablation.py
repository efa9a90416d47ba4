"""What each choice of CBPT's two stages is worth: positives, negatives, alternation, cone, prompts and losses.

    python benchmarks/method_ablation.py SUSPECT [SUSPECT …] --data runs/problem --out METHOD_ABLATION.json

Every suspect (a folder of `benchmark prepare`) gets dummy triggers by several forms of stage 1, the target being
given (the default search names it in all of them), and the default stage 2. Then the default dummies get several
forms of stage 2. Listed are CBPT as published (one weight per class) and the gate; what `--out` holds is kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from clip_antidote.benchmark.poisoned import PoisonedModel
from clip_antidote.benchmark.store import write_rows
from clip_antidote.data.folders import load_images
from clip_antidote.detection.scan import SAMPLE
from clip_antidote.detection.search import SearchResult
from clip_antidote.evaluation.evaluate import TestFeatures, encode_test_images
from clip_antidote.evaluation.metrics import compute_metrics
from clip_antidote.inversion.alignment import class_centroids
from clip_antidote.inversion.bank import Dummy, invert_bank
from clip_antidote.inversion.invert import Inverter
from clip_antidote.inversion.views import Observation
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.dummies import DummyFeatures, TriggeredViews, encode_dummies
from clip_antidote.purification.guard import fit_guard, guard_material, tune_clean
from clip_antidote.purification.observe import observe
from clip_antidote.purification.tuner import tune_prompts
from clip_antidote.versions import library_versions


class LeastSimilarText(Inverter):
    """P1: pulled to the class text that is least similar to the clean image. No hypothesis."""

    def positives(self, triggered: torch.Tensor, clean: torch.Tensor, hypotheses: torch.Tensor) -> torch.Tensor:
        return self.weights[(clean @ self.weights.T).argmin(-1)][None, :, None]


class Consensus(Inverter):
    """P2: pulled to the other triggered images of the batch. No hypothesis."""

    def positives(self, triggered: torch.Tensor, clean: torch.Tensor, hypotheses: torch.Tensor) -> torch.Tensor:
        return F.normalize(triggered.mean(1, keepdim=True), dim=-1)[:, :, None, :]


class TargetImages(Inverter):
    """P3 with the clean images of the hypothesis beside its text."""

    def positives(self, triggered: torch.Tensor, clean: torch.Tensor, hypotheses: torch.Tensor) -> torch.Tensor:
        centroids = class_centroids(self.pool.features, self.pool.labels, len(self.weights)).to(self.weights)
        return torch.stack([self.weights[hypotheses], centroids[hypotheses]], dim=1)[:, None]


class Mixture(Inverter):
    """P3 and P2 together."""

    def positives(self, triggered: torch.Tensor, clean: torch.Tensor, hypotheses: torch.Tensor) -> torch.Tensor:
        consensus = F.normalize(triggered.mean(1), dim=-1)
        return torch.stack([self.weights[hypotheses], consensus], dim=1)[:, None]


class TextNegativesOnly(Inverter):
    """P3 without the image's own clean feature among the negatives."""

    def negatives(self, labels: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        return self.weights[labels][None, :, None]


@dataclass
class Bench:
    """One suspect whose target is given, and all that is computed once."""

    seen: Observation
    target: int
    test: TestFeatures
    config: CBPTConfig
    clean: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.clean = tune_clean(self.seen, self.config)

    def dummies(
        self, inverter: type[Inverter] = Inverter, weights: torch.Tensor | None = None, **inversion: Any
    ) -> list[Dummy]:
        """Stage 1 for the given target."""
        settings, seed = self.config.inversion.model_copy(update=inversion), self.config.seed
        seen = self.seen if weights is None else replace(self.seen, weights=weights)
        rows = torch.randperm(len(seen.pool), generator=torch.Generator().manual_seed(seed))[:SAMPLE]
        engine = inverter(seen, settings, generator=torch.Generator().manual_seed(seed))
        return invert_bank(engine, self.target, rows=rows, seed=seed)

    def encode(self, dummies: list[Dummy]) -> DummyFeatures:
        """Features of the views under every dummy."""
        found = SearchResult((self.target,), (self.target,), tuple(dummies))
        return encode_dummies(self.seen, found, self.config)[0]

    def views(self, *dummies: DummyFeatures) -> TriggeredViews:
        """All dummies' features and labels in one."""
        return TriggeredViews.of(self.seen, dummies)

    def tune(self, views: TriggeredViews, anchor: torch.Tensor | None = None, **tuning: Any) -> torch.Tensor:
        """Stage 2, with other anchors than the hand-written weights where given; returns the class weights [C, D]."""
        settings = self.config.tuning.model_copy(update=tuning)
        return tune_prompts(self.seen, views, settings, seed=self.config.seed, anchor=anchor).weights

    def anchored_at(self, place: torch.Tensor) -> torch.Tensor:
        """The hand-written weights, but the target's replaced by `place` [D]."""
        anchor = self.seen.weights.clone()
        anchor[self.target] = place
        return anchor

    def rates(self, dummies: DummyFeatures, weights: torch.Tensor) -> dict[str, float]:
        """How near the dummies come to the true trigger, and what both heads do."""
        test = self.test
        assert test.triggered is not None
        own = test.labels == self.target
        everything = torch.cat(dummies.parts())
        mean_dummy = F.normalize(everything.mean(0), dim=0)
        mean_true = F.normalize(test.triggered[~own].mean(0), dim=0)
        flips = ((everything @ self.seen.weights.T).argmax(1) == self.target).float().mean()
        found = {"flip_rate": float(flips), "cosine_to_true": float(mean_dummy @ mean_true)}
        found |= self._measured("single", test.clean @ weights.T, test.triggered @ weights.T)
        guard = fit_guard(guard_material(self.seen, (dummies,), self.clean, self.config), self.config.gate)
        gated = []
        for features, layers in ((test.clean, test.layers_clean), (test.triggered, test.layers_triggered)):
            clean, _, triggered, _ = guard.decide(features, layers)
            tuned = (features @ weights.T).index_fill(1, torch.tensor([self.target]), -2)
            gated.append(torch.where(triggered[:, None], tuned, clean))
        return found | self._measured("gate", *gated)

    def _measured(self, name: str, clean: torch.Tensor, triggered: torch.Tensor) -> dict[str, float]:
        metrics = compute_metrics(
            clean.argmax(1),
            self.test.labels,
            triggered_predictions=triggered.argmax(1),
            target=self.target,
            classes=self.test.classes,
        ).to_dict()
        return {f"{name}_{key}": metrics[key] for key in ("ca", "asr", "pa", "target_ca")}


INVERSIONS: dict[str, Callable[[Bench], list[Dummy]]] = {
    "default (P3)": lambda bench: bench.dummies(),
    "P1: least similar text": lambda bench: bench.dummies(LeastSimilarText),
    "P2: consensus": lambda bench: bench.dummies(Consensus),
    "P3 + clean images of the target": lambda bench: bench.dummies(TargetImages),
    "P3 + P2": lambda bench: bench.dummies(Mixture),
    "negatives: text only": lambda bench: bench.dummies(TextNegativesOnly),
    "temperature 0.03": lambda bench: bench.dummies(temperature=0.03),
    "one dummy (mask, λ 20)": lambda bench: bench.dummies(families=("mask",), sparsities=(20.0,)),
}
TUNINGS: dict[str, dict[str, Any]] = {
    "context length 1": {"context_length": 1},
    "context length 16": {"context_length": 16},
    "shared context": {"shared_context": True},
    "no anchor": {"anchor_weight": 0.0},
    "anchor 40": {"anchor_weight": 40.0},
    "no utility loss": {"utility_weight": 0.0},
    "reclassification 0.3": {"reclassification_weight": 0.3},
    "no reclassification": {"reclassification_weight": 0.0},
}


def cone(bench: Bench, dummies: DummyFeatures) -> TriggeredViews:
    """Samples the cone around the dummies' mean feature instead of encoding more images.

    What a clean view has of its own, shrunk by the ratio seen on 64 dummy-triggered views, is added to the mean of
    the dummy: so 64 encoded images per dummy do for the whole pool.
    """
    rows = bench.seen.pool.labels != bench.target
    clean, truth = bench.seen.pool.features[rows], bench.seen.pool.labels[rows]
    own = clean - clean.mean(0)
    parts = []
    for part in (part[:64] for part in dummies.parts()):
        shrink = (part - part.mean(0)).norm(dim=1).mean() / own.norm(dim=1).mean()
        parts.append(F.normalize(part.mean(0) + shrink * own, dim=1))
    return TriggeredViews(torch.cat(parts), truth.repeat(len(parts)))


def measure_suspect(bench: Bench, known: set[str], keep: Callable[[str, dict[str, float]], None]) -> None:
    """Measures all forms that are not `known`, and hands every result to `keep`."""
    dummies = bench.encode(bench.dummies())
    views = bench.views(dummies)
    for name, invert in INVERSIONS.items():
        if name not in known:
            own = bench.encode(invert(bench))
            keep(name, bench.rates(own, bench.tune(bench.views(own))))
    for name, settings in TUNINGS.items():
        if name not in known:
            keep(name, bench.rates(dummies, bench.tune(views, None, **settings)))
    center = F.normalize(views.features.mean(0), dim=0)
    places = {"target not anchored": torch.zeros_like(center), "target pushed off the dummies": -center}
    for name, place in places.items():
        if name not in known:
            keep(name, bench.rates(dummies, bench.tune(views, bench.anchored_at(place))))
    if "cone around the dummies" not in known:
        keep("cone around the dummies", bench.rates(dummies, bench.tune(cone(bench, dummies))))
    if "second round (bi-level)" not in known:
        again = bench.encode(bench.dummies(weights=bench.tune(views)))
        families = {family: parts + again.families[family] for family, parts in dummies.families.items()}
        both = replace(dummies, families=families)
        keep("second round (bi-level)", bench.rates(both, bench.tune(bench.views(both))))


def main() -> None:
    """Measures every form on every suspect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suspects", type=Path, nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config, seed = CBPTConfig(seed=options.seed), options.seed
    rows = json.loads(options.out.read_text(encoding="utf-8"))["rows"] if options.out.exists() else []
    test, shots = load_images(options.data, split="test"), load_images(options.data, shots=16, seed=seed)
    for folder in options.suspects:
        suspect = PoisonedModel.read(folder)
        features = encode_test_images(suspect.model, test, trigger=suspect.trigger)
        bench = Bench(observe(suspect.model, shots, config), shots.classes.index(suspect.target), features, config)

        def keep(name: str, found: dict[str, float], suspect: str = folder.name) -> None:
            rows.append({"suspect": suspect, "form": name, **found})
            print(rows[-1], flush=True)
            write_rows(options.out, rows, seed=seed, versions=library_versions())

        measure_suspect(bench, {row["form"] for row in rows if row["suspect"] == folder.name}, keep)
    print_table(rows)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints the rows as a Markdown table."""
    keys = ("flip_rate", "single_asr", "single_ca", "single_pa", "gate_asr", "gate_ca", "gate_pa", "gate_target_ca")
    print("| suspect | form | cosine to the true trigger | " + " | ".join(keys) + " |")
    print("|" + "---|" * (len(keys) + 3))
    for row in rows:
        cells = [f"{100 * row[key]:.1f}" for key in keys]
        print(f"| {row['suspect']} | {row['form']} | {row['cosine_to_true']:.2f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
