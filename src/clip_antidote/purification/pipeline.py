"""`purify()`: from a suspect model and a few clean images to a `PurifiedCLIP`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.detection.search import TargetSource, search_targets
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.prompts.class_prompts import check_prompts
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.dummies import TriggeredViews, encode_dummies
from clip_antidote.purification.guard import guard_targets
from clip_antidote.purification.observe import observe
from clip_antidote.purification.record import make_record
from clip_antidote.purification.tuner import tune_prompts
from clip_antidote.stopwatch import Stopwatch


def purify(
    model: DualEncoder,
    shots: LabelledImages,
    config: CBPTConfig | None = None,
    *,
    templates: Sequence[str] = IMAGENET_TEMPLATES,
    weights: torch.Tensor | None = None,
    source: TargetSource = search_targets,
) -> PurifiedCLIP:
    """Purifies a suspect model by Class-wise Backdoor Prompt Tuning.

    Stage 1 looks for the target class and inverts dummy triggers for it; stage 2 tunes one prompt per class so that
    triggered images are called by their true class, or, where nothing was found, on clean images alone.

    Args:
        model: The suspect model; left as it is.
        shots: A few clean labelled images per class.
        config: Settings; the defaults serve all attacks.
        templates: Templates of the hand-written classifier that anchors the prompts.
        weights: Its class weights [C, D], where they are known already.
        source: Where targets and dummy triggers come from: the blind search by default; `known_triggers`
            is told them, `kept_search` keeps what another source found.

    Raises:
        DataError: There are no shots of some class.
        UnsupportedError: The prompt of a class does not fit into the text encoder.
    """
    config, watch = config or CBPTConfig(), Stopwatch()
    check_prompts(model, shots.classes, config.tuning.context_length)
    with model.evaluating():
        with watch.stage("features"):
            seen = observe(model, shots, config, templates, weights)
        with watch.stage("inversion"):
            found = source(seen, config.inversion, config.seed)
            dummies = encode_dummies(seen, found, config)
        with watch.stage("tuning"):
            accused = [one for one in dummies if one.suspected]
            tuned = tune_prompts(seen, TriggeredViews.of(seen, accused), config.tuning, seed=config.seed)
            guard = guard_targets(seen, dummies, config)
    record = make_record(seen, found, config, guarded=guard is not None, watch=watch)
    return PurifiedCLIP.assemble(seen, found, tuned, guard, record)
