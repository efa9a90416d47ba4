"""Making the models of a population, in as many processes as one likes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from clip_antidote.attacks.run import measure_under_trigger
from clip_antidote.benchmark.population import (
    BaseConfig,
    ModelRecord,
    PopulationConfig,
    Row,
    chosen_rows,
    read_population,
)
from clip_antidote.benchmark.records import compact, fingerprint
from clip_antidote.benchmark.store import WAIT, append_line, claim_work, clear_claims
from clip_antidote.data.folders import load_test_images
from clip_antidote.evaluation.aims import Aim
from clip_antidote.evaluation.metrics import Metrics
from clip_antidote.files import sha256_file, write_json
from clip_antidote.jobs.attack import make_attack_from, run_attack_for_record
from clip_antidote.jobs.control import ControlConfig, run_control_job
from clip_antidote.jobs.evaluate import run_evaluate
from clip_antidote.jobs.train import KIND, run_train
from clip_antidote.jobs.workplace import workplace
from clip_antidote.models import load_model
from clip_antidote.models.saving import save_model
from clip_antidote.triggers import Trigger, load_trigger


def make_population(
    config: PopulationConfig,
    data: str,
    out: Path,
    *,
    device: str = "cpu",
    names: Collection[str] = (),
    wait: float = WAIT,
) -> Iterator[ModelRecord]:
    """Makes the models that are missing, `out/models/NAME`, yielding the record of each that is made here.

    Several processes may work on one folder. A row that another one works on is left to it; a process ends when
    every row is made.

    Args:
        config: The population.
        data: Problem folder, see `data.problem`.
        out: Folder of models and manifest.
        device: Where to compute.
        names: Models to make, and the bases they need; all by default.
        wait: Seconds to wait for other processes where nothing else is left.

    Raises:
        UsageError: The population has no model of such a name.
    """
    rows = chosen_rows(config, names)
    while True:
        worked = False
        open_rows = _open_rows(rows, out)
        for row in open_rows:
            with claim_work(out, row.name) as ours:
                if not ours or row.name not in {left.name for left in _open_rows(rows, out)}:
                    continue
                record = _make(row, data, out, config.test_images, device)
                append_line(out / "models.jsonl", compact(record.model_dump(mode="json", exclude_none=True)))
                worked = True
            yield record
        if not open_rows:
            clear_claims(out)
            return
        if not worked:
            time.sleep(wait)


def _open_rows(rows: Sequence[Row], out: Path) -> list[Row]:
    """What is not made yet; of what waits for its base, nothing, unless nothing else is left."""
    done = {record.name: record.recipe for record in read_population(out).values()}
    left = [row for row in rows if done.get(row.name) != fingerprint(row.recipe)]
    bases = {row.name for row in left if row.kind == "base"}
    return [row for row in left if row.kind == "base" or row.base.name not in bases] or left


def _make(row: Row, data: str, out: Path, test: int, device: str) -> ModelRecord:
    """Makes one model and says what is known about it."""
    folder, start = out / "models" / row.name, time.perf_counter()
    known: dict[str, Any] = {}
    if row.variant is None:
        _make_base(row.base, data, out, folder, device)
        known["measured"] = Metrics.from_dict(run_evaluate(f"local-dir:{folder}", data, most=test, device=device))
    else:
        base, settings = f"local-dir:{out / 'models' / row.base.name}", {"seed": row.seed, **row.variant.settings}
        if row.variant.attack is None:
            made = run_control_job(base, ControlConfig.build(settings), data, folder, most_test=test, device=device)
            known["measured"] = Metrics.from_dict(made["poisoned"])
        else:
            known |= _poison(row, base, settings, data, folder, test, device)
    return ModelRecord(
        name=row.name,
        kind=row.kind,
        base=row.base.name,
        tower=row.base.tower,
        attack=row.variant.attack if row.variant else None,
        target=row.target,
        recipe=fingerprint(row.recipe),
        seconds=round(time.perf_counter() - start, 1),
        sha256=sha256_file(folder / "open_clip_model.safetensors"),
        **known,
    )


def _poison(
    row: Row, base: str, settings: dict[str, Any], data: str, folder: Path, test: int, device: str
) -> dict[str, Any]:
    """Implants one backdoor after the other, or all at once, and measures the last model under every trigger."""
    assert row.variant is not None
    names, targets = (*row.variant.also, row.variant.attack), (*row.further, row.target)
    spec, triggers = base, {}
    for number, (name, target) in enumerate(zip(names, targets, strict=True), start=1):
        last = number == len(names)
        out = folder if last else folder.with_name(f".{folder.name}.{number}")
        attack = make_attack_from(name or "", {**settings, "seed": row.seed + 1000 * (number - 1)})
        made = run_attack_for_record(spec, attack, target or "", data, out, most_test=test, device=device)
        spec = f"local-dir:{out}"
        if not last:
            triggers[target or ""] = load_trigger(out / "trigger")
    poisoned, reference = (Metrics.from_dict(made[key]) for key in ("poisoned", "clean"))
    further = _under_others(spec, triggers, data, test, device) if triggers else {}
    weak = [target for target, m in further.items() if m.asr is None or m.asr.value < attack.config.implant_asr]
    at_once = {one["target"]: Metrics.from_dict(one["poisoned"]) for one in made.get("further", ())}
    check = f"the backdoor for {weak[0]} was lost" if weak else made["implant_check"]
    for number in range(1, len(names)):
        shutil.rmtree(folder.with_name(f".{folder.name}.{number}"))
    return {"implant_check": check, "measured": poisoned, "reference": reference, "further": further | at_once}


def _under_others(spec: str, triggers: dict[str, Trigger], data: str, test: int, device: str) -> dict[str, Metrics]:
    """Measures a model under other triggers, by their targets."""
    model, images = load_model(spec, device=device), load_test_images(data).at_most(test)
    return {
        target: measure_under_trigger(model, images, trigger, Aim(target)).metrics
        for target, trigger in triggers.items()
    }


def _make_base(base: BaseConfig, data: str, out: Path, folder: Path, device: str) -> None:
    if base.spec is not None:
        with workplace(folder, KIND) as work, work.result() as result:
            save_model(load_model(base.spec), result)
        return
    architecture = out / "architectures" / f"{base.name}.json"
    write_json(architecture, {"model_cfg": base.model, "preprocess_cfg": base.preprocess})
    run_train(architecture, Path(data), folder, base.training, device=device)
