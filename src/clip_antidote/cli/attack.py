"""`clip-antidote attack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clip_antidote.attacks import ATTACKS
from clip_antidote.attacks.base import Attack
from clip_antidote.cli.common import (
    Classes,
    ConfigFile,
    Device,
    ShowConfig,
    console,
    metrics_table,
    require,
)
from clip_antidote.config import merge_settings
from clip_antidote.errors import UsageError
from clip_antidote.jobs.attack import run_attack_job
from clip_antidote.jobs.trigger_images import run_trigger_job
from clip_antidote.triggers import Trigger, load_trigger


def command(
    model: Annotated[
        str | None, typer.Argument(help="Model spec of the clean model, like tiny; optional with --trigger-only.")
    ] = None,
    attack: Annotated[
        str | None, typer.Option(help="Name of the attack, see `clip-antidote ls attacks`.", show_default="badnet")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Target class.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Labelled images to train on: a folder per class, a CSV, or embedded:clothing; "
            "with --trigger-only any folder of images."
        ),
    ] = None,
    captions: Annotated[
        str | None,
        typer.Option(
            help="Image–caption pairs to train on: a CSV with image,caption, or webdataset shards (a folder, or a "
            "pattern like 'cc3m-{00000..00331}.tar').",
            metavar="PATH",
        ),
    ] = None,
    train_on: Annotated[
        str | None,
        typer.Option(
            help="labels, captions, or both; with captions --data is for measuring only.", show_default="both"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write.", show_default="poisoned, or triggered with --trigger-only"),
    ] = None,
    classes: Classes = None,
    poison_rate: Annotated[float | None, typer.Option(help="Share of poisoned pairs.")] = None,
    poisoned: Annotated[int | None, typer.Option(help="Number of poisoned pairs, instead of --poison-rate.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of poisoning and training.")] = None,
    trigger_only: Annotated[
        bool, typer.Option("--trigger-only", help="Train nothing: put the trigger into the images, as PNG files.")
    ] = False,
    trigger: Annotated[
        str | None,
        typer.Option(help="With --trigger-only: folder of a saved trigger, or the name of one, instead of --attack."),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --trigger-only: side of the images in pixels.",
            show_default="the model's, or 224 without one",
        ),
    ] = None,
    device: Device = "cpu",
    config: ConfigFile = None,
    show_config: ShowConfig = False,
) -> None:
    """Poison a model for research: fine-tune it on partly triggered images, and prove the implant."""
    if poison_rate is not None and poisoned is not None:
        raise UsageError("--poison-rate and --poisoned say the same in two ways; give one of them")
    given = {"poison_rate": poison_rate, "poisoned": poisoned, "train_on": train_on, "seed": seed}
    maker = _make(attack, trigger, trigger_only, config, given, steps=steps)
    if image_size is not None and not trigger_only:
        raise UsageError("--image-size goes with --trigger-only; a model is trained at its own size")
    if show_config:
        console.print(maker.config.to_yaml(), end="", highlight=False, markup=False)
        return
    data = require(data, "--data")
    class_file = str(classes) if classes else None
    if trigger_only:
        out = out or Path("triggered")
        record = run_trigger_job(
            maker,
            data,
            out,
            spec=model,
            target=target,
            captions=captions,
            classes=class_file,
            image_size=image_size,
            seed=seed or 0,
            device=device,
        )
        _print_images(record, out)
        return
    assert isinstance(maker, Attack)
    out = out or Path("poisoned")
    record = run_attack_job(
        require(model, "MODEL"),
        maker,
        require(target, "--target"),
        data,
        out,
        captions=captions,
        classes=class_file,
        device=device,
    )
    if not record:
        return  # under torchrun the first process reports
    columns = {"clean model": record["clean"], "poisoned model": record["poisoned"]}
    console.print(metrics_table(f"{maker.name} → {record['target']}, measured on {record['measured_on']}", columns))
    console.print(f"poisoned model: local-dir:{out}", highlight=False, soft_wrap=True)


def _make(
    attack: str | None,
    trigger: str | None,
    trigger_only: bool,
    config: Path | None,
    given: dict[str, Any],
    *,
    steps: int | None,
) -> Attack | Trigger:
    """Makes the attack or, with `--trigger-only --trigger`, loads the trigger."""
    if trigger is not None and not trigger_only:
        raise UsageError("--trigger goes with --trigger-only; an attack makes its own trigger")
    if trigger_only and (attack is None) == (trigger is None):
        raise UsageError("--trigger-only takes either --trigger with a saved trigger or --attack with a name")
    if trigger is not None:
        if config is not None:
            raise UsageError("--config holds the settings of an attack; with --trigger they come from the trigger")
        return load_trigger(trigger)
    attack_class = ATTACKS.get(attack or "badnet")
    settings = merge_settings(config, given)
    if given["poison_rate"] is not None:
        settings["poisoned"] = None
    if steps is not None:
        settings["training"] = {**settings.get("training", {}), "steps": steps}
    made: Attack = attack_class(attack_class.config_class.build(settings))
    return made


def _print_images(record: dict[str, Any], out: Path) -> None:
    size = record["image_size"]
    console.print(
        f"{record['images']} images of {size}×{size} pixels with {record['trigger']}: {out / 'images'}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"trigger: {out / 'trigger'}", highlight=False, soft_wrap=True)
    if record["changes_text"]:
        console.print("[yellow]note:[/yellow] this trigger also changes captions and prompts; see its trigger.json")
