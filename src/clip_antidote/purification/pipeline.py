"""`purify()`: from a suspect model and a few clean images to a `PurifiedCLIP`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clip_antidote.data.images import LabelledImages
from clip_antidote.inversion.search import TargetSource, search_targets
from clip_antidote.models.dual_encoder import DualEncoder
from clip_antidote.prompts.templates import IMAGENET_TEMPLATES
from clip_antidote.purification.classifier import PurifiedCLIP
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.dummies import TriggeredViews, encode_dummies
from clip_antidote.purification.guard import guard_targets
from clip_antidote.purification.observe import observe
from clip_antidote.purification.record import make_record, trigger_names
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

    Stage 1 looks for the target class and inverts dummy triggers for it; stage 2 tunes one prompt per
    class so that triggered images are called by their true class. Where stage 1 finds nothing, stage 2
    runs on the clean images alone.

    Args:
        model: The suspect model; left as it is.
        shots: A few clean labelled images per class.
        config: Settings; the defaults serve all attacks.
        templates: Templates of the hand-written classifier that anchors the prompts.
        weights: Its class weights [C, D], where they are known already.
        source: Where targets and dummy triggers come from: the blind search by default; `known_triggers`
            is told them, `kept_search` keeps what another source found.

    Returns:
        The purified classifier; `record` holds scores, settings and seconds.

    Raises:
        DataError: There are no shots of some class.
    """
    config, watch = config or CBPTConfig(), Stopwatch()
    with model.evaluating():
        with watch.stage("features"):
            seen = observe(model, shots, config, templates, weights)
        with watch.stage("inversion"):
            found = source(seen, config.inversion, config.seed)
            dummies = encode_dummies(seen, found, config)
        with watch.stage("tuning"):
            tuned = tune_prompts(seen, TriggeredViews.of(seen, dummies), config.tuning, seed=config.seed)
            guard = guard_targets(seen, dummies, config)
    fewest = int(shots.labels.bincount().min())
    record = make_record(found, shots.classes, config, guarded=guard is not None, shots=fewest, watch=watch)
    return PurifiedCLIP(
        model,
        tuned.weights.T.contiguous(),
        shots.classes,
        context=tuned.contexts,
        record=record,
        triggers=dict(zip(trigger_names(found), (dummy.trigger for dummy in found.dummies), strict=True)),
        guard=guard,
        second_look=config.gate.second_look,
    )
