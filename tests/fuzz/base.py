"""What the cases of the slow tier are mutations of: a small one of every input, made once."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
import yaml
from inputs import artefact

from clip_antidote.benchmark.grid import GridConfig, SuspectConfig
from clip_antidote.inversion.bank import Dummy
from clip_antidote.jobs.attack import make_attack_from, run_attack_job
from clip_antidote.jobs.purify import purify_settings, run_purify
from clip_antidote.jobs.train import run_train, train_settings
from clip_antidote.models import load_model
from clip_antidote.models.build import build_open_clip, save_open_clip
from clip_antidote.triggers import TRIGGERS
from clip_antidote.triggers.stego import StegoConfig, build_stego, save_stego
from conftest import SMALL, draw_photos

CLASSES = ("cat", "dog", "sea_horse")
PURIFY = {
    "inversion": {"survey": {"steps": 1, "wave_most": 1}, "final_steps": 1, "form_steps": 1, "batch_size": 4},
    "precision": "fp32",
    "tuning": {"steps": 1},
    "pool": 6,
}
ATTACK = {
    "implant_asr": 0.0,
    "implant_ca_drop": 1.0,
    "training": {"steps": 2, "batch_size": 4, "precision": "fp32", "checkpoint_every": 1},
}
TRAIN = {"store_size": 36, "training": {"steps": 2, "batch_size": 4, "precision": "fp32", "checkpoint_every": 1}}


@dataclass(frozen=True)
class Base:
    """Folders and files that cases copy from, all below one folder.

    Attributes:
        folder: That folder.
    """

    folder: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / name

    def state(self, out: str) -> Path:
        """The unfinished work that an interrupted run left beside `out`."""
        (found,) = self.folder.glob(f".{out}.state-*")
        return found


def make_base(folder: Path) -> Base:
    """Makes everything in an empty folder."""
    base = Base(folder)
    torch.manual_seed(0)
    model = build_open_clip(SMALL).eval()
    base.model.mkdir()
    save_open_clip(model, None, base.model)
    draw_photos(base.problem / "train", classes=CLASSES, count=4)
    draw_photos(base.problem / "test", classes=CLASSES, count=2)
    artefact(model, base.artefact)
    for name in ("badnet", "blended", "sig", "wanet"):
        TRIGGERS.get(name)().save(base.triggers / name)
    base.stego.mkdir()
    save_stego(*build_stego(StegoConfig(width=4, bits=8)), base.stego)
    for name, values in (("purify", PURIFY), ("attack", ATTACK), ("train", TRAIN)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    settings = {"training": {"steps": 1, "batch_size": 4}}
    suspects = (SuspectConfig(attack="badnet", target="cat", settings=settings), SuspectConfig(attack="clean"))
    grid = GridConfig(model=f"local-dir:{base.model}", shots=1, seeds=(0,), suspects=suspects)
    (folder / "grid.yaml").write_text(grid.to_yaml())
    _leave_states(base)
    return base


def make_transformers(base: Base) -> None:
    """Makes `hf_clip` and `hf_siglip`, as transformers writes them, and opens them once.

    What is imported at first use looks for libraries, which is no case's doing.
    """
    from hf_models import write_clip, write_siglip

    write_clip(base.hf_clip)
    write_siglip(base.hf_siglip, second=True)
    for folder in (base.hf_clip, base.hf_siglip):
        load_model(f"hf:{folder}").encode_texts(["a cat"])


class _Killed(BaseException):
    pass


def _leave_states(base: Base) -> None:
    """Runs commands until all is done but the writing of the result."""
    model, data = f"local-dir:{base.model}", str(base.problem)
    architecture = base.model / "open_clip_config.json"
    attack = make_attack_from("badnet", ATTACK)

    def stop(*arguments: object) -> None:
        raise _Killed

    runs: list[Callable[[], object]] = [
        lambda: run_attack_job(model, attack, "dog", data, base.poisoned),
        lambda: run_purify(model, data, base.purified, purify_settings(base.folder / "purify.yaml"), shots=2),
        lambda: run_train(architecture, base.problem, base.trained, train_settings(base.folder / "train.yaml")),
    ]
    for run in runs:
        with patch("clip_antidote.jobs.workplace.result_folder", stop), suppress(_Killed):
            run()
    dummy = Dummy(TRIGGERS.get("badnet")(), "mask", 1, 0.5, 0.1)
    kept = base.state("purified")
    dummy.trigger.save(kept / "0")  # so that there is a trigger to break
    record = json.loads((kept / "search.json").read_text())
    record["targets"], record["dummies"] = [1], [["mask", 1, 0.5, 0.1]]
    (kept / "search.json").write_text(json.dumps(record))
