"""What each choice of CBPT's two stages is worth: positives, negatives, alternation, cone, prompts and losses.

    python benchmarks/method_ablation.py SUSPECT [SUSPECT …] --data runs/problem --out METHOD_ABLATION.json

Every suspect (a folder of `benchmark prepare`) gets dummy triggers by several forms of stage 1, the target being
given (the default search names it in all of them), and the default stage 2. Then the default dummies get several
forms of stage 2. Listed are CBPT as published (one weight per class) and the gate in front of clean prompts. Goes on
where a run was interrupted: what `--out` holds already is not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from clip_antidote.benchmark.store import write_rows
from clip_antidote.data.folders import load_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.evaluation.evaluate import TestFeatures, encode_test_images
from clip_antidote.evaluation.metrics import compute_metrics
from clip_antidote.inversion.alignment import class_centroids
from clip_antidote.inversion.invert import Inverter
from clip_antidote.inversion.search import TargetSearch
from clip_antidote.inversion.views import ViewPool, make_views
from clip_antidote.models import DualEncoder, load_model
from clip_antidote.prompts.templates import zero_shot_weights
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.gate import GuardedHead, fit_gate, repair_weights
from clip_antidote.purification.pipeline import (
    by_family,
    gate_data,
    library_versions,
    trigger_features,
    tune_clean_prompts,
)
from clip_antidote.purification.text_repair import TextMap
from clip_antidote.purification.tuner import CachedFeatures, tune_prompts
from clip_antidote.triggers import Trigger, load_trigger


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
    """One suspect and all that is computed once."""

    model: DualEncoder
    shots: LabelledImages
    pool: ViewPool
    hand: torch.Tensor
    target: int
    test: TestFeatures
    config: CBPTConfig
    clean: torch.Tensor = field(init=False)
    text_map: TextMap | None = field(init=False)
    head: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        centroids = class_centroids(self.pool.features, self.pool.labels, len(self.hand))
        self.text_map = TextMap.fit(self.hand, centroids, (self.target,), ridge=self.config.gate.ridge)
        self.clean = tune_clean_prompts(self.model, self.shots.classes, self.pool, self.hand, self.config)
        self.head = repair_weights(self.clean, self.hand, centroids, self.text_map, (self.target,), self.config.gate)

    def dummies(
        self, inverter: type[Inverter] = Inverter, weights: torch.Tensor | None = None, **inversion: Any
    ) -> list[Trigger]:
        """Stage 1 for the given target."""
        settings = self.config.inversion.model_copy(update=inversion)
        search = TargetSearch(
            self.model, self.hand if weights is None else weights, self.pool, settings, seed=self.config.seed
        )
        generator = torch.Generator().manual_seed(self.config.seed)
        search.inverter = inverter(self.model, search.weights, self.pool, settings, generator=generator)
        return [dummy.trigger for dummy in search.final_bank(self.target)]

    def encode(self, triggers: list[Trigger]) -> tuple[dict[str, list[torch.Tensor]], torch.Tensor]:
        """Features of the views under every dummy, by family, and the labels of the views."""
        parts, labels = trigger_features(self.model, self.pool, triggers, target=self.target, config=self.config)
        return by_family(triggers, parts), labels

    def tune(
        self, features: torch.Tensor, labels: torch.Tensor, anchor: torch.Tensor | None = None, **tuning: Any
    ) -> torch.Tensor:
        """Stage 2, with other anchors than the hand-written weights where given; returns the class weights [C, D]."""
        settings = self.config.tuning.model_copy(update=tuning)
        cached = CachedFeatures(self.pool.features, self.pool.labels, features, labels)
        generator = torch.Generator().manual_seed(self.config.seed)
        anchor = self.hand if anchor is None else anchor
        return tune_prompts(self.model, self.shots.classes, cached, anchor, settings, generator=generator)[1]

    def anchored_at(self, place: torch.Tensor) -> torch.Tensor:
        """The hand-written weights, but the target's replaced by `place` [D]."""
        anchor = self.hand.clone()
        anchor[self.target] = place
        return anchor

    def rates(self, dummies: dict[str, list[torch.Tensor]], weights: torch.Tensor) -> dict[str, float]:
        """How near the dummies come to the true trigger, and what both heads do."""
        assert self.test.triggered is not None
        own = self.test.labels == self.target
        everything = torch.cat([part for family in dummies.values() for part in family])
        mean_dummy = F.normalize(everything.mean(0), dim=0)
        mean_true = F.normalize(self.test.triggered[~own].mean(0), dim=0)
        flips = ((everything @ self.hand.T).argmax(1) == self.target).float().mean()
        found = {"flip_rate": float(flips), "cosine_to_true": float(mean_dummy @ mean_true)}
        found |= self._measured("single", self.test.clean @ weights.T, self.test.triggered @ weights.T)
        data = gate_data(
            self.model, self.shots, self.pool, dummies, self.hand, self.text_map, self.config, target=self.target
        )
        guard = GuardedHead(self.head.T.contiguous(), (fit_gate(data, self.config.gate),))
        gated = []
        for features in (self.test.clean, self.test.triggered):
            clean, _, triggered = guard.decide(features)
            tuned = features @ weights.T
            tuned[:, self.target] = -2
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


INVERSIONS: dict[str, Callable[[Bench], list[Trigger]]] = {
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


def cone(
    bench: Bench, dummies: dict[str, list[torch.Tensor]], labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples the cone around the dummies' mean feature instead of encoding more images.

    What a clean view has of its own, shrunk by the ratio seen on 64 dummy-triggered views, is added to the mean of
    the dummy: so 64 encoded images per dummy do for the whole pool.
    """
    rows = bench.pool.labels != bench.target
    clean, truth = bench.pool.features[rows], bench.pool.labels[rows]
    own = clean - clean.mean(0)
    parts = []
    for part in (part[:64] for family in dummies.values() for part in family):
        shrink = (part - part.mean(0)).norm(dim=1).mean() / own.norm(dim=1).mean()
        parts.append(F.normalize(part.mean(0) + shrink * own, dim=1))
    return torch.cat(parts), truth.repeat(len(parts))


def flat(dummies: dict[str, list[torch.Tensor]], labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All dummies' features and labels in one."""
    parts = [part for family in dummies.values() for part in family]
    return torch.cat(parts), labels.repeat(len(parts))


def measure_suspect(bench: Bench, known: set[str], keep: Callable[[str, dict[str, float]], None]) -> None:
    """Measures all forms that are not `known`, and hands every result to `keep`."""
    dummies, labels = bench.encode(bench.dummies())
    for name, invert in INVERSIONS.items():
        if name not in known:
            own, truth = bench.encode(invert(bench))
            keep(name, bench.rates(own, bench.tune(*flat(own, truth))))
    for name, settings in TUNINGS.items():
        if name not in known:
            keep(name, bench.rates(dummies, bench.tune(*flat(dummies, labels), None, **settings)))
    features, truth = flat(dummies, labels)
    center = F.normalize(features.mean(0), dim=0)
    places = {"target not anchored": torch.zeros_like(center), "target pushed off the dummies": -center}
    for name, place in places.items():
        if name not in known:
            keep(name, bench.rates(dummies, bench.tune(features, truth, bench.anchored_at(place))))
    if "cone around the dummies" not in known:
        keep("cone around the dummies", bench.rates(dummies, bench.tune(*cone(bench, dummies, labels))))
    if "second round (bi-level)" not in known:
        weights = bench.tune(*flat(dummies, labels))
        again, _ = bench.encode(bench.dummies(weights=weights))
        both = {family: dummies[family] + again[family] for family in dummies}
        keep("second round (bi-level)", bench.rates(both, bench.tune(*flat(both, labels))))


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
    views, precision = config.views_per_shot(len(shots)), config.inversion.precision
    for folder in options.suspects:
        model = load_model(f"local-dir:{folder}")
        target = json.loads((folder / "attack.json").read_text(encoding="utf-8"))["target"]
        pool = make_views(model, shots, views=views, min_scale=config.min_scale, seed=seed, precision=precision)
        features = encode_test_images(model, test, trigger=load_trigger(folder / "trigger"))
        hand, label = zero_shot_weights(model, shots.classes), shots.classes.index(target)
        bench = Bench(model, shots, pool, hand, label, features, config)

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
