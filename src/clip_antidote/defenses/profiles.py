"""The profiles of the defenses of this package, by their names."""

from __future__ import annotations

from clip_antidote.defenses.profile import Needs, Profile

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
}
