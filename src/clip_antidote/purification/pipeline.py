"""`purify()`: from a suspect model and a few clean images to a `PurifiedCLIP`."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.errors import DataError
from clip_antidote.inversion.alignment import class_centroids
from clip_antidote.inversion.search import SearchResult, TargetSearch
from clip_antidote.inversion.state import load_search, save_search
from clip_antidote.inversion.views import ViewPool, make_views
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.models.encoding import encode_uint8
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES, zero_shot_weights
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.gate import GateData, GuardedHead, fit_gate, repair_weights
from clip_antidote.purification.text_repair import TextMap
from clip_antidote.purification.tuner import CachedFeatures, tune_prompts
from clip_antidote.triggers.base import Trigger


@dataclass
class Stopwatch:
    """Seconds of every stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a block under a name."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def library_versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = {"torch": "torch", "torchvision": "torchvision", "open_clip": "open_clip_torch"}
    return {
        "clip_antidote": version("clip-antidote"),
        "python": platform.python_version(),
        **{name: version(package) for name, package in packages.items()},
    }


def trigger_features(
    model: DualEncoder, pool: ViewPool, triggers: Sequence[Trigger], *, target: int, config: CBPTConfig
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Encodes views of other classes under every trigger, at most `config.triggered_views`, drawn by the seed.

    Returns:
        Unit features [n, D] of every trigger, and the true labels [n] of the views.
    """
    rows = (pool.labels != target).nonzero().flatten()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed))
    rows = rows[order[: config.triggered_views]]
    features = [
        encode_uint8(
            model,
            pool.images[rows],
            transform=trigger,
            precision=config.inversion.precision,
            description="dummy-triggered features",
        ).cpu()
        for trigger in triggers
    ]
    return features, pool.labels[rows]


def by_family(triggers: Sequence[Trigger], features: Sequence[torch.Tensor]) -> dict[str, list[torch.Tensor]]:
    """Sorts the features of every trigger by its family, the name of the trigger."""
    out: dict[str, list[torch.Tensor]] = {}
    for trigger, part in zip(triggers, features, strict=True):
        out.setdefault(trigger.name, []).append(part)
    return out


def purify(
    model: DualEncoder,
    shots: LabelledImages,
    config: CBPTConfig | None = None,
    *,
    templates: Sequence[str] = IMAGENET_TEMPLATES,
    triggers: Sequence[Trigger] | None = None,
    target: str | None = None,
    state: Path | None = None,
) -> PurifiedCLIP:
    """Purifies a suspect model by Class-wise Backdoor Prompt Tuning.

    Stage 1 looks for the target class and inverts dummy triggers for it; stage 2 tunes one prompt per
    class so that triggered images are called by their true class. Where stage 1 finds nothing, stage 2
    runs on the clean images alone.

    Args:
        model: The suspect model; left as it is.
        shots: A few clean labelled images per class.
        config: Settings; the defaults serve all attacks.
        templates: Templates of the hand-written classifier that anchors the prompts.
        triggers: Skips stage 1 and uses these instead: the true trigger gives the ceiling (and needs
            `target`), none at all gives prompts tuned on clean images only.
        target: Name of the target class that belongs to `triggers`.
        state: Folder that keeps the result of stage 1, and is read where it exists; it must belong to
            this very model, shots and settings.

    Returns:
        The purified classifier; `record` holds scores, settings and seconds.

    Raises:
        DataError: There are no shots of some class, or `target` is not a class.
    """
    config = config or CBPTConfig()
    classes = shots.classes
    counts = shots.labels.bincount(minlength=len(classes))
    if len(shots) == 0 or int(counts.min()) == 0:
        raise DataError(f"there is no clean image of the class '{classes[int(counts.argmin())]}'")
    watch = Stopwatch()
    start = time.perf_counter()
    precision = config.inversion.precision
    with watch.stage("features"):
        hand = zero_shot_weights(model, classes, templates)
        views = config.views_per_shot(len(shots))
        pool = make_views(
            model, shots, views=views, min_scale=config.min_scale, seed=config.seed, precision=precision
        )
    with watch.stage("inversion"):
        if triggers is None:
            found = _search(model, hand, pool, config, state)
            triggers = [dummy.trigger for dummy in found.dummies]
        else:
            if target not in classes and (target is not None or triggers):
                raise DataError(f"the target '{target}' is not one of the {len(classes)} classes")
            found = SearchResult(() if target is None else (classes.index(target),))
        owners = [dummy.target for dummy in found.dummies] or list(found.targets) * len(triggers)
        banks = {
            label: [trigger for trigger, owner in zip(triggers, owners, strict=True) if owner == label]
            for label in found.targets
        }
        triggered = {
            label: trigger_features(model, pool, bank, target=label, config=config) for label, bank in banks.items()
        }
    with watch.stage("tuning"):
        parts = [part for features, _ in triggered.values() for part in features]
        truth = [labels for features, labels in triggered.values() for _ in features]
        cached = CachedFeatures(
            pool.features,
            pool.labels,
            torch.cat([pool.features[:0], *parts]),
            torch.cat([pool.labels[:0], *truth]),
        )
        prompts, weights = tune_prompts(
            model,
            classes,
            cached,
            hand,
            config.tuning,
            generator=torch.Generator().manual_seed(config.seed),
        )
        guard = None
        if parts and config.gate.enabled:
            dummies = {label: by_family(banks[label], features) for label, (features, _) in triggered.items()}
            guard = guard_targets(model, shots, pool, dummies, hand, config)
    record: dict[str, Any] = {
        "method": "cbpt" if guard is None else "cbpt-gate",
        "target_suspected": classes[found.targets[0]] if found.targets else None,
        "targets_suspected": [classes[label] for label in found.targets],
        "shots": int(counts.min()),
        "seed": config.seed,
        "settings": config.model_dump(mode="json"),
        "scores": score_rows(found, classes),
        "score_threshold": config.inversion.score_threshold,
        "triggers": trigger_rows(found, classes),
        "stages": {name: round(value, 2) for name, value in watch.seconds.items()},
        "seconds": round(time.perf_counter() - start, 2),
        "versions": library_versions(),
    }
    names = [row["name"] for row in record["triggers"]]
    return PurifiedCLIP(
        model,
        weights.T.contiguous(),
        classes,
        context=prompts.contexts.detach().contiguous(),
        record=record,
        triggers=dict(zip(names, triggers, strict=False)) if names else {},
        guard=guard,
        second_look=config.gate.second_look,
    )


def guard_targets(
    model: DualEncoder,
    shots: LabelledImages,
    pool: ViewPool,
    dummies: Mapping[int, Mapping[str, Sequence[torch.Tensor]]],
    hand: torch.Tensor,
    config: CBPTConfig,
) -> GuardedHead:
    """Tunes prompts on clean views alone and puts a gate in front of every suspected target.

    Args:
        model: Frozen model.
        shots: Clean labelled images.
        pool: Their views.
        dummies: By target and family, the features of other classes' views under its dummy triggers.
        hand: Hand-written class weights [C, D].
        config: Settings.
    """
    clean = tune_clean_prompts(model, shots.classes, pool, hand, config).cpu()
    suspects = tuple(dummies)
    weights, centroids = hand.cpu(), class_centroids(pool.features, pool.labels, len(hand))
    text_map = TextMap.fit(weights, centroids, suspects, ridge=config.gate.ridge)
    repaired = repair_weights(clean, weights, centroids, text_map, suspects, config.gate)
    gates = []
    for target, own in dummies.items():
        data = gate_data(model, shots, pool, own, weights, text_map, config, target=target)
        gates.append(fit_gate(data, config.gate))
    return GuardedHead(repaired.T.contiguous(), tuple(gates))


def tune_clean_prompts(
    model: DualEncoder, classes: Sequence[str], pool: ViewPool, hand: torch.Tensor, config: CBPTConfig
) -> torch.Tensor:
    """Tunes one prompt per class on clean views alone and returns the class weights [C, D]."""
    nothing = CachedFeatures(pool.features, pool.labels, pool.features[:0], pool.labels[:0])
    generator = torch.Generator().manual_seed(config.seed)
    _, weights = tune_prompts(
        model, classes, nothing, hand, config.tuning, generator=generator, description="tuning clean prompts"
    )
    return weights


def gate_data(
    model: DualEncoder,
    shots: LabelledImages,
    pool: ViewPool,
    dummies: Mapping[str, Sequence[torch.Tensor]],
    weights: torch.Tensor,
    text_map: TextMap | None,
    config: CBPTConfig,
    *,
    target: int,
) -> GateData:
    """Gathers what the gate of one target is fitted to, with many views of the target's shots."""
    views = make_views(
        model,
        shots.subset((shots.labels == target).nonzero().flatten()),
        views=config.gate.target_views,
        min_scale=config.gate.target_min_scale,
        seed=config.seed + 1,
        precision=config.inversion.precision,
    )
    return GateData(
        views=views.features,
        shots=views.shots,
        dummies=dummies,
        features=pool.features,
        labels=pool.labels,
        weights=weights,
        target=target,
        text_map=text_map,
    )


def _search(
    model: DualEncoder, hand: torch.Tensor, pool: ViewPool, config: CBPTConfig, state: Path | None
) -> SearchResult:
    """Runs stage 1, or takes its kept result."""
    found = load_search(state) if state is not None else None
    if found is None:
        found = TargetSearch(model, hand, pool, config.inversion, seed=config.seed).find()
        if state is not None:
            save_search(found, state)
    return found


def score_rows(found: SearchResult, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The evidence per class, for records."""
    return [
        {
            "class": classes[score.label],
            "score": round(score.score, 4),
            "alignment": round(score.alignment, 4),
            "inversion": None if score.inversion is None else round(score.inversion, 4),
        }
        for score in found.scores
    ]


def trigger_rows(found: SearchResult, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The dummy triggers, for records."""
    return [
        {
            "name": f"{number:02d}-{dummy.family}",
            "family": dummy.family,
            "hypothesis": classes[dummy.target],
            "flip_rate": round(dummy.flip_rate, 4),
            "size": round(dummy.size, 5),
            "file": f"triggers/{number:02d}-{dummy.family}",
        }
        for number, dummy in enumerate(found.dummies)
    ]
