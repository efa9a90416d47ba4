"""`clip-antidote serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clip_antidote.cli.common import AllowDownload, BaseModel, Device, progress_console, resolve_device, say

HERE = "127.0.0.1"
OPEN = "everybody who can reach this machine there can use it, without a password"
STOP = "Ctrl-C stops it"


def command(
    artefact: Annotated[Path, typer.Argument(help="Folder of a purified classifier.")],
    trigger: Annotated[
        list[str] | None,
        typer.Option(help="Folder of a saved trigger, or the name of one, to put into images; may be repeated."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; with another one, other machines get in.")] = HERE,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 7860,
    max_upload: Annotated[float, typer.Option(help="Largest upload in megabytes.")] = 20,
    max_pixels: Annotated[float, typer.Option(help="Largest image in millions of pixels.")] = 50,
    rate: Annotated[int, typer.Option(help="Uploads and questions of one client in a minute.")] = 120,
    base: BaseModel = None,
    allow_download: AllowDownload = False,
    device: Device = "auto",
) -> None:
    """Show a purified classifier as a page in the browser: answers before and after, gate, votes, heat maps.

    On this machine only, without any network; uploads are not kept. Ctrl-C stops it.
    """
    from clip_antidote.jobs.explain import load_explainer
    from clip_antidote.serving.limits import ServeLimits
    from clip_antidote.serving.offline import is_here
    from clip_antidote.serving.server import open_port, require_gradio, serve

    require_gradio()
    limits = ServeLimits.build({"upload_mb": max_upload, "megapixels": max_pixels, "per_minute": rate})
    with open_port(host, port) as listening:
        explainer = load_explainer(
            artefact, trigger or (), base=base, allow_download=allow_download, device=resolve_device(device)
        )
        if not is_here(host):
            say(("warning:", "yellow"), f" the page listens on {host}: {OPEN}", to=progress_console)
        serve(explainer, listening, host, limits, lambda address: say(f"{artefact} is shown at {address}; {STOP}"))
    say("stopped; nothing that was uploaded is left")
