"""`clip-antidote defend`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clip_antidote.cli.common import (
    Classes,
    ConfigFile,
    Device,
    JsonFlag,
    ShowConfig,
    console,
    metrics_table,
    print_json,
    print_settings,
    require,
    resolve_device,
    say,
)

if TYPE_CHECKING:  # --help does without what computes
    from clip_antidote.jobs.defended import DefenseReport

KEPT = {
    "model": "the defended model is local-dir:{out}",
    "artefact": "the classifier is {out}, for `evaluate` and `PurifiedCLIP`",
    "weights": "class weights and what was trained are in {out}/weights.safetensors",
}


def command(
    model: Annotated[str, typer.Argument(help="Model spec, like open_clip:RN50@suspect.pt or local-dir:DIR.")],
    defense: Annotated[str, typer.Option(help="Name of the defense, see `clip-antidote ls defenses`.")] = "cbpt",
    data: Annotated[
        str | None,
        typer.Option(
            help="Clean labelled images: a folder per class, a CSV, embedded:clothing, or as docs/data.md says."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Result folder to write.")] = Path("defended"),
    shots: Annotated[int, typer.Option(help="Clean images per class.", min=1)] = 16,
    base: Annotated[
        str | None, typer.Option(help="Spec of a trusted model of the same architecture, for defenses that need one.")
    ] = None,
    attack: Annotated[
        Path | None, typer.Option(help="Folder that `attack` wrote: measure with its trigger and target.")
    ] = None,
    trigger: Annotated[
        str | None, typer.Option(help="Measure with this trigger: the folder of a saved one, or the name of one.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="The attacker's target class, to measure.")] = None,
    classes: Classes = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random (default 0).")] = None,
    device: Device = "auto",
    config: ConfigFile = None,
    show_config: ShowConfig = False,
    as_json: JsonFlag = False,
) -> None:
    """Run any defense of the field on a model, and measure it before and after.

    Trigger and target serve to measure; no defense but an oracle is told them.
    """
    from clip_antidote.jobs.defend import defense_from, run_defend
    from clip_antidote.jobs.known_attack import known_attack

    made = defense_from(defense, config, seed=seed)
    if show_config:
        print_settings(made.config)
        return
    report = run_defend(
        model,
        require(data, "--data"),
        out,
        defense,
        made,
        shots=shots,
        base=base,
        attack=known_attack(attack, trigger, target),
        classes=str(classes) if classes else None,
        device=resolve_device(device),
    )
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        _print(report, out)


def _print(report: DefenseReport, out: Path) -> None:
    columns = {"before": report.before, f"after {report.defense}": report.after}
    console.print(metrics_table(f"measured on {report.measured_on}", columns))
    say(f"Changed: {', '.join(report.changes) or 'nothing'}; from {report.paper}.")
    memory = "".join(f", {mib:,} MiB of {where} memory at most" for where, mib in report.peak_memory.items())
    cost = f"{report.seconds:.0f} s, {report.clean_images} clean images, {report.trained:,} parameters trained"
    say(f"Cost: {cost}{memory}.")
    for name, value in report.details.items():
        say(f"{name}: {value}")
    for sentence in report.warnings:
        say(("warning:", "yellow"), f" {sentence}")
    say(f"report: {out / 'defended.json'}")
    say(KEPT[report.kept].format(out=out))
