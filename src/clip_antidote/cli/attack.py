"""`clip-antidote attack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clip_antidote.cli.common import (
    Classes,
    ConfigFile,
    Device,
    Log,
    ShowConfig,
    console,
    metrics_table,
    print_settings,
    require,
    resolve_device,
    say,
)
from clip_antidote.errors import UsageError

Model = Annotated[
    str | None, typer.Argument(help="Model spec of the clean model, like tiny; optional with --trigger-only.")
]
AttackName = Annotated[
    str | None, typer.Option("--attack", help="Name, see `clip-antidote ls attacks`.", show_default="badnet")
]
Target = Annotated[str | None, typer.Option(help="Target class.")]
Data = Annotated[
    str | None,
    typer.Option(
        help="Labelled images to train on: a folder per class, a CSV, or embedded:clothing; "
        "with --trigger-only any folder of images."
    ),
]
Captions = Annotated[
    str | None,
    typer.Option(
        help="Image–caption pairs to train on: a CSV with image,caption, or webdataset shards (a folder, or a "
        "pattern like 'cc3m-{00000..00331}.tar').",
        metavar="PATH",
    ),
]
TrainOn = Annotated[
    str | None,
    typer.Option(help="labels, captions, or both; with captions --data is for measuring only.", show_default="both"),
]
TrainingMethod = Annotated[
    str | None,
    typer.Option(
        help="How the victim trains on the poisoned pairs, see `clip-antidote ls training-methods`.",
        metavar="NAME",
        show_default="clip",
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="Folder to write.", show_default="poisoned, or triggered with --trigger-only")
]
PoisonRate = Annotated[float | None, typer.Option(help="Share of poisoned pairs.")]
Poisoned = Annotated[int | None, typer.Option(help="Number of poisoned pairs, instead of --poison-rate.")]
Steps = Annotated[int | None, typer.Option(help="Optimizer steps.")]
Seed = Annotated[int | None, typer.Option(help="Seed of poisoning and training.")]
TriggerOnly = Annotated[
    bool, typer.Option("--trigger-only", help="Train nothing: put the trigger into the images, as PNG files.")
]
SavedTrigger = Annotated[
    str | None,
    typer.Option(
        "--trigger",
        help="With --trigger-only: folder of a saved trigger, or the name of one, instead of --attack.",
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="With --trigger-only: side of the images in pixels.",
        show_default="the model's, or 224 without one",
    ),
]


def command(
    model: Model = None,
    attack: AttackName = None,
    target: Target = None,
    data: Data = None,
    captions: Captions = None,
    train_on: TrainOn = None,
    training_method: TrainingMethod = None,
    out: Out = None,
    classes: Classes = None,
    poison_rate: PoisonRate = None,
    poisoned: Poisoned = None,
    steps: Steps = None,
    seed: Seed = None,
    trigger_only: TriggerOnly = False,
    trigger: SavedTrigger = None,
    image_size: ImageSize = None,
    device: Device = "auto",
    log: Log = None,
    config: ConfigFile = None,
    show_config: ShowConfig = False,
) -> None:
    """Poison a model for research: fine-tune it on partly triggered images, and prove the implant."""
    from clip_antidote.jobs.attack import make_attack, run_attack_job
    from clip_antidote.jobs.trigger_images import make_trigger_maker, run_trigger_job

    given = {"poison_rate": poison_rate, "poisoned": poisoned, "train_on": train_on, "seed": seed}
    given["training_method"] = training_method
    where: dict[str, Any] = {"captions": captions, "classes": str(classes) if classes else None}
    where["device"] = resolve_device(device)
    if trigger_only:
        if training_method is not None:
            raise UsageError("--training-method says how to train; --trigger-only trains nothing")
        maker = make_trigger_maker(attack, trigger, config, steps=steps, given=given)
        if show_config:
            print_settings(maker.config)
            return
        out = out or Path("triggered")
        own: dict[str, Any] = {"spec": model, "target": target, "image_size": image_size, "seed": seed or 0}
        _print_images(run_trigger_job(maker, require(data, "--data"), out, **own, **where), out)
        return
    if trigger is not None:
        raise UsageError("--trigger goes with --trigger-only; an attack makes its own trigger")
    if image_size is not None:
        raise UsageError("--image-size goes with --trigger-only; a model is trained at its own size")
    planned = make_attack(attack or "badnet", config, steps=steps, given=given)
    if show_config:
        print_settings(planned.config)
        return
    out, data = out or Path("poisoned"), require(data, "--data")
    spec, wanted = require(model, "MODEL"), require(target, "--target")
    _print_attack(run_attack_job(spec, planned, wanted, data, out, log=log, **where), out)


def _print_attack(record: dict[str, Any], out: Path) -> None:
    from clip_antidote.jobs.attack import implant_note

    if not record:
        return  # under torchrun the first process reports
    columns = {"clean model": record["clean"], "poisoned model": record["poisoned"]}
    title = f"{record['attack']} → {record['target']}, measured on {record['measured_on']}"
    console.print(metrics_table(title, columns))
    for number, other in enumerate(record.get("further", ()), start=1):
        columns = {"clean model": other["clean"], "poisoned model": other["poisoned"]}
        console.print(metrics_table(f"{other['trigger']} → {other['target']} (further/{number})", columns))
    if (note := implant_note(record)) is not None:  # of a training that defends; otherwise it is an error
        say(("note:", "yellow"), f" {note}")
    say(f"poisoned model: local-dir:{out}")


def _print_images(record: dict[str, Any], out: Path) -> None:
    size = record["image_size"]
    say(f"{record['images']} images of {size}×{size} pixels with {record['trigger']}: {out / 'images'}")
    say(f"trigger: {out / 'trigger'}")
    if record["changes_text"]:
        say(("note:", "yellow"), " this trigger also changes captions and prompts; see its trigger.json")
