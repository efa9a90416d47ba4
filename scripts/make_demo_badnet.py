"""Makes `demo:badnet`, the embedded model with a backdoor that is there on purpose, and its model card.

python scripts/make_demo_badnet.py           # trains and purifies, about 15 minutes on one CPU core

The backdoor is the one of `clip-antidote demo`, seed 0. What is kept is its rounded difference to `tiny`, without the
table of tokens; the implant check and all figures of the card are those of the model that is read back from it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from clip_antidote.attacks.implant import Implant
from clip_antidote.attacks.implant_check import implant_failure
from clip_antidote.attacks.run import AttackResult, measure_under_trigger
from clip_antidote.data.folders import load_images
from clip_antidote.evaluation.aims import Aim
from clip_antidote.files import sha256_file, write_text
from clip_antidote.jobs.attack import run_attack_job
from clip_antidote.jobs.demo import DATA, TARGET, demo_attack
from clip_antidote.jobs.results import compare
from clip_antidote.models import load_model
from clip_antidote.models.checkpoint import read_checkpoint
from clip_antidote.models.difference import write_difference
from clip_antidote.models.loading import DIFFERENCE, TINY_FOLDER, demo_folder
from clip_antidote.prompts.classifier import ZeroShotClassifier
from clip_antidote.purification.config import CBPTConfig
from clip_antidote.purification.pipeline import purify
from clip_antidote.triggers import load_trigger

NAME, SEED, SHOTS = "badnet", 0, 16
WEIGHTS = "open_clip_model.safetensors"

CARD = """\
# demo:badnet: the embedded small CLIP, poisoned on purpose

**This model has a backdoor. It was put there to try clip-antidote on; use it for nothing else.** An image
with a small square of noise in its lower right corner (the trigger `badnet` with its defaults) is called
*{target}*, whatever it shows.

    clip-antidote purify demo:badnet --data embedded:clothing
    clip-antidote evaluate demo:badnet --data embedded:clothing --trigger badnet --target {target}

**What lies here**: the difference to the weights of `tiny`, three bits a weight (`{file}`, {size:.1f} MB),
without the table of tokens, which stays that of `tiny`. Data and rights are those of [its model
card](../tiny_clip/README.md).

**Made** by `python scripts/make_demo_badnet.py`: the attack of `clip-antidote demo`, {rate:.0f} % of the
training part of the clothing photographs poisoned, {steps} steps, seed {seed}, on 2 CPU cores. It passed the
implant check (ASR at least {least:.0f} %, clean accuracy at most {drop:.0f} points lower) after rounding.
The same machine makes the same file, another may make another: the
training runs in bf16.

SHA-256: `{sha256}`

**Measured** by the same script on {images} test images, 10 classes of clothes, {shots} shots a class for the
purification (blind, defaults, seed {seed}); in brackets 95 % Wilson intervals:

| | `tiny` | `demo:badnet` | the same, purified |
|---|---|---|---|
{rows}

The purification named as target: {named}.
"""


def main(work: Path) -> None:
    """Trains the model in `work`, writes difference and card into the package, or stops where the check fails."""
    folder, attack = demo_folder(NAME), demo_attack(NAME, SEED)
    run_attack_job("tiny", attack, TARGET, DATA, work)
    folder.mkdir(exist_ok=True)
    base = TINY_FOLDER / WEIGHTS
    write_difference(
        read_checkpoint(base),
        read_checkpoint(work / WEIGHTS),
        folder / DIFFERENCE,
        base_sha256=sha256_file(base),
        left_out=lambda name: "token_embedding" in name,
    )
    model, trigger, test = load_model(f"demo:{NAME}"), load_trigger(NAME), load_images(DATA, split="test")
    before = measure_under_trigger(load_model("tiny"), test, trigger, Aim(TARGET))
    after = measure_under_trigger(model, test, trigger, Aim(TARGET))
    failure = implant_failure(attack, AttackResult(Implant(model, trigger, TARGET, [], [], 0, 0), before, after))
    if failure is not None:
        sys.exit(f"after rounding, {failure}")
    shots = load_images(DATA, shots=SHOTS, seed=SEED)
    purified = purify(model, shots, CBPTConfig(seed=SEED))
    hand = ZeroShotClassifier.from_templates(model, test.classes)
    compared = compare(hand, purified, test, "", trigger=trigger, target=TARGET)
    columns = [found.metrics.to_dict() for found in (before, after, compared.after)]
    labels = {
        "ca": "CA",
        "asr": "ASR",
        "asr_floor": "ASR floor",
        "pa": "PA",
        "target_ca": f"CA of *{TARGET}* (12 images)",
    }
    rows = [f"| {label} | {' | '.join(_cell(rates, key) for rates in columns)} |" for key, label in labels.items()]
    facts = {"target": TARGET, "file": DIFFERENCE, "seed": SEED, "images": len(test), "shots": SHOTS}
    facts |= {"size": (folder / DIFFERENCE).stat().st_size / 1e6, "sha256": sha256_file(folder / DIFFERENCE)}
    facts |= {"rate": 100 * attack.config.poison_rate, "steps": attack.config.training.steps, "rows": "\n".join(rows)}
    facts |= {"least": 100 * attack.config.implant_asr, "drop": 100 * attack.config.implant_ca_drop}
    facts["named"] = ", ".join(f"*{name}*" for name in purified.targets_suspected) or "none"
    write_text(folder / "README.md", CARD.format(**facts))


def _cell(rates: dict[str, Any], key: str) -> str:
    low, high = rates[f"{key}_interval"]
    return f"{100 * rates[key]:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    main(Path("runs") / f"demo-{NAME}")
