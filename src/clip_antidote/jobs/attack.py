"""The job of `clip-antidote attack`: a clean model in, a poisoned one with its record out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from clip_antidote.attacks.base import Attack
from clip_antidote.attacks.run import PASSED, AttackResult, gate_failure, implant_backdoor, measure_implant
from clip_antidote.data.captions import load_captions
from clip_antidote.data.folders import load_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.errors import DataError, ImplantError
from clip_antidote.files import finished_record, state_folder, write_json
from clip_antidote.jobs.results import write_trigger
from clip_antidote.models import load_model
from clip_antidote.models.build import save_open_clip
from clip_antidote.models.open_clip_backend import OpenCLIPEncoder
from clip_antidote.outputs import check_output, result_folder
from clip_antidote.training.distributed import Ranks, joined

KIND = "poisoned model"


def run_attack_job(
    spec: str,
    attack: Attack,
    target: str,
    data: str,
    out: Path,
    *,
    captions: str | None = None,
    classes: str | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Poisons a model, checks the implant and writes the result folder.

    The folder is a model folder of open_clip (`local-dir:OUT`), with `attack.json`, `poisoned.json` and
    `trigger/` beside the weights. An interrupted run leaves its training state in a hidden folder beside
    `out`, from which the same command goes on. Under torchrun all processes train together, and the first
    one alone measures and writes.

    Args:
        spec: Model spec of the clean model.
        attack: The attack with its settings.
        target: Name of the target class.
        data: Folder, CSV or `embedded:NAME` with labelled images; the test split measures the implant.
        out: Folder to write; see `outputs.check_output` for what may be there.
        captions: Image–caption pairs, a CSV or webdataset shards, see `load_captions`.
        classes: Class file, see `read_classes`.
        device: Where to compute.

    Returns:
        The record, as written to `attack.json`; a finished run with the same settings is not repeated. Empty in
        processes other than the first.

    Raises:
        ImplantError: The backdoor missed its gate; the folder is written all the same.
        ClipAntidoteError: Bad input, in one sentence.
    """
    with joined(device) as place:
        ranks = Ranks.current()
        if ranks.first:
            check_output(out, KIND)
        only_captions = attack.config.train_on == "captions"
        train = None if only_captions else load_images(data, split="train", classes=classes)
        try:
            test = load_images(data, split="test", classes=classes)
        except DataError:
            test = train if train is not None else load_images(data, split="train", classes=classes)
        pairs = load_captions(captions) if captions else None
        model = load_model(spec, device=place)
        settings = [model.sha256, attack.name, attack.config.model_dump(mode="json"), target, data, captions, classes]
        state = state_folder(out, settings)
        record = finished_record(out / "attack.json", state.name) if ranks.first else None
        implant = None
        if not ranks.any(record is not None):
            implant = implant_backdoor(
                model, attack, train, test, target, captions=pairs, state=state if ranks.first else None
            )
    if not ranks.first:
        return {}
    if record is None:
        assert implant is not None
        result = measure_implant(implant, test)
        record = {
            "model": {"spec": spec, "sha256": model.sha256},
            "data": data,
            "captions": captions,
            "measured_on": f"{len(test)} {'test' if test is not train else 'training'} images",
            **result.record(attack),
            "implant_check": gate_failure(attack, result) or PASSED,
            "run": state.name,
        }
        _write(out, result, record, test)
        shutil.rmtree(state, ignore_errors=True)
    if record["implant_check"] != PASSED:
        raise ImplantError(record["implant_check"])
    return record


def _write(out: Path, result: AttackResult, record: dict[str, Any], test: LabelledImages) -> None:
    model = result.model
    example = test.subset([0]).tensor(model.image_size, mode=model.resize_mode)[0].float() / 255
    with result_folder(out, KIND) as folder:
        assert isinstance(model, OpenCLIPEncoder)
        save_open_clip(model, None, folder)
        write_trigger(folder / "trigger", result.trigger, example)
        write_json(folder / "attack.json", record)
        write_json(folder / "poisoned.json", result.names)
