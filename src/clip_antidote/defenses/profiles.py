"""The profiles of the defenses of this package, by their names."""

from __future__ import annotations

from clip_antidote.defenses.profile import Needs, Profile
from clip_antidote.registry import Registry

PLUGIN_PROFILES: Registry[Profile] = Registry(
    "profile", {}, group="clip_antidote.profiles", base="clip_antidote.defenses.profile:Profile"
)
"""Profiles that installed packages put beside their defenses, so that `ls` need not import what computes."""

_CBPT = "Kong et al. 2025, Neural Antidote: Class-Wise Prompt Tuning for Purifying Backdoors in CLIP"
_COOP = "Zhou et al. 2022, Learning to Prompt for Vision-Language Models (CoOp)"

PROFILES: dict[str, Profile] = {
    "none": Profile(
        paper="the suspect with hand-written prompts",
        changes=(),
        needs=Needs(shots=0),
        differs="nothing is done",
    ),
    "cbpt": Profile(
        paper=_CBPT,
        arxiv="2502.19269",
        changes=("prompts",),
        differs="formulas of our own, a gate and a second look in addition (docs/method.md)",
    ),
    "cbpt-mask": Profile(
        paper=_CBPT, arxiv="2502.19269", changes=("prompts",), differs="as cbpt, with mask dummies only"
    ),
    "cbpt-additive": Profile(
        paper=_CBPT, arxiv="2502.19269", changes=("prompts",), differs="as cbpt, with additive dummies only"
    ),
    "prompts": Profile(
        paper=_COOP,
        arxiv="2109.01134",
        changes=("prompts",),
        differs="the second stage of cbpt without triggers: Adam, and held at the hand-written prompts",
    ),
    "oracle": Profile(
        paper=_CBPT,
        arxiv="2502.19269",
        changes=("prompts",),
        needs=Needs(truth=True),
        differs="told the true trigger and target: a ceiling, no defense",
    ),
    "finetune": Profile(
        paper="fine-tuning on clean pairs, the baseline of the CLIP papers",
        changes=("image tower", "text tower"),
        needs=Needs(shots=2),
        differs="captions are templates with the class name; the learning rate is chosen on held-out shots",
    ),
    "cleanclip": Profile(
        paper="Bansal et al. 2023, CleanCLIP",
        arxiv="2303.03323",
        changes=("image tower", "text tower"),
        needs=Needs(shots=2),
        differs="captions are templates with the class name, another template is the other wording; some hundred "
        "pairs and steps instead of 100 000 pairs; the learning rate is chosen on held-out shots",
    ),
    "par": Profile(
        paper="Singh, Croce and Hein 2024, Perturb and Recover (PAR)",
        arxiv="2412.00727",
        changes=("image tower", "text tower"),
        needs=Needs(images=16),
        differs="captions are templates with the class name; the shots instead of 250 000 pairs, at the rate of our "
        "own trainings; plain crops as augmentation; the logit scale is trained too",
    ),
    "coop": Profile(
        paper=_COOP,
        arxiv="2109.01134",
        changes=("prompts",),
        differs="four context tokens from 'a photo of a'; nine augmented views of each shot are encoded once",
    ),
    "coop-shared": Profile(
        paper=_COOP, arxiv="2109.01134", changes=("prompts",), differs="as coop, with one context for all classes"
    ),
    "apt": Profile(
        paper="Li et al. 2024, One Prompt Word is Enough to Boost Adversarial Robustness (APT)",
        arxiv="2403.01849",
        changes=("prompts",),
        differs="made against adversarial images, not backdoors; one context per class, four tokens from 'a photo "
        "of a'; fewer steps",
    ),
    "rvpt": Profile(
        paper="Zhang et al. 2024, Repulsive Visual Prompt Tuning (RVPT)",
        arxiv="2412.20392",
        changes=("image tower",),
        needs=Needs(vit=True),
        differs="the form of the loss is the abstract's, its settings are ours; kept as prompts, not as a model",
    ),
    "invertune": Profile(
        paper="Sun et al. 2025, InverTune",
        arxiv="2506.12411",
        changes=("image tower",),
        needs=Needs(stages=True),
        differs="the three steps are the abstract's, the weights of the inversion those of the release, for terms "
        "that are only alike; fewer steps at a larger rate; which layer is tuned and how clean features are kept is "
        "ours",
    ),
    "fine-pruning": Profile(
        paper="Liu, Dolan-Gavitt and Garg 2018, Fine-Pruning",
        arxiv="1805.12185",
        changes=("image tower",),
        needs=Needs(shots=2, projection=True),
        differs="for classifiers; here the units before the last projection of the image tower, behind it the "
        "hand-written class weights; batch norms keep their statistics",
    ),
    "anp": Profile(
        paper="Wu and Wang 2021, Adversarial Neuron Pruning (ANP)",
        arxiv="2110.14430",
        changes=("image tower",),
        needs=Needs(shots=2, norms=True),
        differs="for classifiers with batch norm; here all normalization layers with a scale, behind them the "
        "hand-written class weights; fewer steps; the adversary starts at 0; pruning ends where held-out accuracy "
        "falls",
    ),
    "nad": Profile(
        paper="Li et al. 2021, Neural Attention Distillation (NAD)",
        arxiv="2101.05930",
        changes=("image tower",),
        needs=Needs(stages=True),
        differs="for classifiers; here stages of the image tower or blocks of a ViT, behind them the hand-written "
        "class weights; AdamW, fewer steps, a weight of our own; batch norms keep their statistics",
    ),
    "ibau": Profile(
        paper="Zeng et al. 2022, Adversarial Unlearning of Backdoors via Implicit Hypergradient (I-BAU)",
        arxiv="2110.03735",
        changes=("image tower",),
        differs="for classifiers; here the image tower with the hand-written class weights; a ball that grows with "
        "the image instead of a penalty, the fixed-point iteration ends where it does not contract; the clean loss "
        "is added",
    ),
    "rnp": Profile(
        paper="Li et al. 2023, Reconstructive Neuron Pruning (RNP)",
        arxiv="2305.14876",
        changes=("image tower",),
        needs=Needs(shots=2, norms=True),
        differs="for classifiers with batch norm; here all normalization layers with a scale, behind them the "
        "hand-written class weights; pruning ends where held-out accuracy falls",
    ),
    "neural-polarizer": Profile(
        paper="Zhu et al. 2023, Neural Polarizer (NPD)",
        arxiv="2306.16697",
        changes=("image tower",),
        needs=Needs(projection=True),
        differs="for classifiers, where the map stands between two layers; here behind the last projection, into "
        "which it is multiplied; the bound grows with the image",
    ),
    "projection": Profile(
        paper="ours, from no paper",
        changes=("image tower",),
        needs=Needs(shots=2, base=True, projection=True),
        differs="no paper to differ from",
    ),
}
