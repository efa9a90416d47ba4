"""The job of `clip-antidote attack`: a clean model in, a poisoned one with its record out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_antidote.attacks import ATTACKS
from clip_antidote.attacks.base import Attack
from clip_antidote.attacks.implant import Implant
from clip_antidote.attacks.implant_check import PASSED, implant_failure
from clip_antidote.attacks.run import Measured, begin_attack, finish_attack
from clip_antidote.config import merge_settings
from clip_antidote.data.captions import CaptionSet, load_captions
from clip_antidote.data.folders import load_images, load_test_images
from clip_antidote.data.images import LabelledImages
from clip_antidote.errors import ImplantError, UsageError
from clip_antidote.files import write_json
from clip_antidote.jobs.results import write_trigger
from clip_antidote.jobs.workplace import Workplace, workplace
from clip_antidote.models import load_model
from clip_antidote.models.saving import save_model
from clip_antidote.training.distributed import Ranks, joined
from clip_antidote.training.methods import PLAIN
from clip_antidote.training.step_log import logged_to

KIND = "poisoned model"


def make_attack(
    name: str, file: Path | None = None, *, steps: int | None = None, given: Mapping[str, Any] | None = None
) -> Attack:
    """Makes an attack from its settings.

    Args:
        name: One of `clip-antidote ls attacks`.
        file: YAML file with settings.
        steps: Optimizer steps of the poisoned fine-tuning.
        given: Other settings that win over the file's; None means not given.

    Raises:
        UsageError: There is no such attack, or a setting is wrong.
    """
    values = dict(given or {})
    if values.get("poison_rate") is not None and values.get("poisoned") is not None:
        raise UsageError("--poison-rate and --poisoned say the same in two ways; give one of them")
    settings = merge_settings(file, values)
    if values.get("poison_rate") is not None:
        settings["poisoned"] = None
    if steps is not None:
        training = settings.get("training") or {}
        if isinstance(training, dict):  # what else it may be, the configuration refuses
            settings["training"] = {**training, "steps": steps}
    return make_attack_from(name, settings)


def make_attack_from(name: str, settings: dict[str, Any]) -> Attack:
    """Makes an attack from its name and its settings.

    Raises:
        UsageError: There is no such attack, or a setting is wrong.
    """
    attack_class = ATTACKS.get(name)
    return attack_class(attack_class.config_class.build(settings))


@dataclass(frozen=True)
class AttackerData:
    """What an attack trains and is measured on.

    Attributes:
        train: Labelled images to train on; None where captions alone are.
        test: Labelled images to measure on.
        captions: Image–caption pairs to train on.
    """

    train: LabelledImages | None
    test: LabelledImages
    captions: CaptionSet | None

    @classmethod
    def load(
        cls, attack: Attack, data: str, captions: str | None, classes: str | None, most_test: int | None
    ) -> AttackerData:
        """Finds what the settings of the attack ask for."""
        only_captions = attack.config.train_on == "captions"
        return cls(
            None if only_captions else load_images(data, split="train", classes=classes),
            load_test_images(data, classes=classes).at_most(most_test),
            load_captions(captions) if captions else None,
        )

    def described(self) -> str:
        """What the implant is measured on, in words."""
        seen = self.train is not None and self.train.source.name(0) == self.test.source.name(0)
        return f"{len(self.test)} {'training' if seen else 'test'} images"


def run_attack_job(
    spec: str,
    attack: Attack,
    target: str,
    data: str,
    out: Path,
    *,
    captions: str | None = None,
    classes: str | None = None,
    most_test: int | None = None,
    device: str = "cpu",
    log: str | None = None,
) -> dict[str, Any]:
    """Poisons a model, checks the implant and writes the result folder.

    The folder is a model folder of open_clip (`local-dir:OUT`), with `attack.json`, `poisoned.json` and
    `trigger/` beside the weights, and `covers.json` where images carried the trigger with their true captions.
    Where several triggers were implanted, the others stand in `further/1/` and so on, in the order of the record.
    An interrupted run leaves its training state in a hidden folder beside `out`, from which the same command
    goes on. Under torchrun all processes train together, and the first one alone measures and writes.

    Args:
        spec: Model spec of the clean model.
        attack: The attack with its settings.
        target: Name of the target class.
        data: Folder, CSV or `embedded:NAME` with labelled images; the test split measures the implant.
        out: Folder to write; see `outputs.check_output` for what may be there.
        captions: Image–caption pairs, a CSV or webdataset shards, see `load_captions`.
        classes: Class file, see `read_classes`.
        most_test: Most test images to measure on; all by default.
        device: Where to compute.
        log: Where to log every step, see `training.step_log`.

    Returns:
        The record, as written to `attack.json`; a finished run with the same settings is not repeated. Empty in
        processes other than the first.

    Raises:
        ImplantError: The backdoor failed its implant check, and no training method defended; the folder is there.
        ClipAntidoteError: Bad input, in one sentence.
    """
    begun = record = None
    with joined(device) as place, workplace(out, KIND, writes=Ranks.current().first) as work:
        ranks = Ranks.current()
        own = AttackerData.load(attack, data, captions, classes, most_test)
        model = load_model(spec, device=place)
        config = attack.config.facts()
        state = work.resume([model.sha256, attack.name, config, target, data, captions, classes])
        if ranks.first:
            record = work.finished("attack.json")
        if not ranks.any(record is not None):
            kept = state if ranks.first else None
            with logged_to(log if ranks.first else None):
                begun = begin_attack(model, attack, own.train, own.test, target, captions=own.captions, state=kept)
    if not ranks.first:
        return {}
    if begun is not None:
        model_facts = {"spec": spec, "sha256": model.sha256}
        record = _finish(work, begun, own, attack, {"model": model_facts, "data": data, "captions": captions})
    return _checked(record)


def run_attack_for_record(
    spec: str, attack: Attack, target: str, data: str, out: Path, *, most_test: int | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Does `run_attack_job` and returns the record it wrote, also where the implant failed its check.

    For grids and populations, where a failed implant is a result: the record says so under "implant_check".

    Raises:
        ClipAntidoteError: Bad input, in one sentence.
    """
    with suppress(ImplantError):
        run_attack_job(spec, attack, target, data, out, most_test=most_test, device=device)
    record: dict[str, Any] = json.loads((out / "attack.json").read_text(encoding="utf-8"))
    return record


def _finish(
    work: Workplace,
    begun: tuple[Implant, Measured | None],
    own: AttackerData,
    attack: Attack,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Measures the poisoned model, writes the result folder and returns the record."""
    implant, before = begun
    assert before is not None
    result = finish_attack(implant, attack, before, own.test)
    record = {
        **facts,
        "measured_on": own.described(),
        **result.record(attack),
        "implant_check": implant_failure(attack, result) or PASSED,
        "run": work.run,
    }
    example = own.test.example(result.model.image_size, mode=result.model.resize_mode)
    with work.result() as folder:
        save_model(result.model, folder)
        write_trigger(folder / "trigger", result.trigger, example)
        for number, trigger in enumerate(implant.further.values(), start=1):
            write_trigger(folder / "further" / str(number), trigger, example)
        write_json(folder / "attack.json", record)
        write_json(folder / "poisoned.json", implant.names)
        if implant.covers:
            write_json(folder / "covers.json", implant.covers)
    return record


def implant_note(record: dict[str, Any]) -> str | None:
    """What the implant check of a record says where it was not passed."""
    check: str = record["implant_check"]
    return check if check != PASSED else None


def _checked(record: dict[str, Any] | None) -> dict[str, Any]:
    assert record is not None
    defended = record.get("training", {}).get("method", PLAIN) != PLAIN
    if (note := implant_note(record)) is not None and not defended:
        raise ImplantError(note)
    return record
