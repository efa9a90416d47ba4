"""`clip-antidote demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clip_antidote.cli.common import Device, JsonFlag, Seed, print_json, print_report, resolve_device


def command(
    attack: Annotated[str, typer.Option(help="Attack to implant: badnet or blended.")] = "badnet",
    target: Annotated[str, typer.Option(help="Target class of the attacker.")] = "hat",
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("clip-antidote-demo"),
    seed: Seed = 0,
    device: Device = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Implant a backdoor into the embedded CLIP, then find and remove it without being told about it."""
    from clip_antidote.jobs.demo import run_demo

    report = run_demo(out, attack=attack, target=target, seed=seed, device=resolve_device(device))
    if as_json:
        print_json(report.to_json())
    else:
        print_report(report, out / "purified")
