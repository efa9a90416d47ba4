"""`clip-antidote attack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clip_antidote.attacks import ATTACKS
from clip_antidote.cli.common import (
    Classes,
    ConfigFile,
    Device,
    ShowConfig,
    console,
    merge_settings,
    metrics_table,
    require,
)
from clip_antidote.jobs.attack import run_attack_job


def command(
    model: Annotated[str, typer.Argument(help="Model spec of the clean model, like tiny.")],
    attack: Annotated[str, typer.Option(help="Name of the attack, see `clip-antidote ls attacks`.")] = "badnet",
    target: Annotated[str | None, typer.Option(help="Target class.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Labelled images to train on: a folder per class, a CSV, or embedded:clothing."),
    ] = None,
    captions: Annotated[
        str | None, typer.Option(help="CSV with image,caption: further pairs to train on.", metavar="FILE")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("poisoned"),
    classes: Classes = None,
    poison_rate: Annotated[float | None, typer.Option(help="Share of poisoned pairs.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of poisoning and training.")] = None,
    device: Device = "cpu",
    config: ConfigFile = None,
    show_config: ShowConfig = False,
) -> None:
    """Poison a model for research: fine-tune it on partly triggered images, and prove the implant."""
    attack_class = ATTACKS.get(attack)
    settings = merge_settings(config, {"poison_rate": poison_rate, "seed": seed})
    if steps is not None:
        settings["training"] = {**settings.get("training", {}), "steps": steps}
    resolved = attack_class.build_config(settings)
    if show_config:
        console.print(resolved.to_yaml(), end="", highlight=False, markup=False)
        return
    record = run_attack_job(
        model,
        attack_class(resolved),
        require(target, "--target"),
        require(data, "--data"),
        out,
        captions=captions,
        classes=str(classes) if classes else None,
        device=device,
    )
    columns = {"clean model": record["clean"], "poisoned model": record["poisoned"]}
    console.print(metrics_table(f"{attack} → {record['target']}, measured on {record['measured_on']}", columns))
    console.print(f"poisoned model: local-dir:{out}", highlight=False, soft_wrap=True)
