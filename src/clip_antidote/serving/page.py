"""The page itself, in Gradio: a thin layer over `jobs/explain.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from clip_antidote.data.sources import IMAGE_SUFFIXES
from clip_antidote.errors import ClipAntidoteError, UsageError
from clip_antidote.jobs.explain import Explainer
from clip_antidote.plain import plain
from clip_antidote.reporting import CAVEAT
from clip_antidote.serving.limits import ServeLimits
from clip_antidote.serving.render import page_css, render_explanation, render_problem, render_welcome
from clip_antidote.serving.uploads import Uploads

NO_TRIGGER = "none"
_KEPT_SECONDS = 900
_SESSIONS, _WAITING = 100, 16


class Desk:
    """What happens on the page, without Gradio.

    Args:
        explainer: Answers.
        uploads: Where uploads lie until they are taken.
        limits: What is taken.
    """

    def __init__(self, explainer: Explainer, uploads: Uploads, limits: ServeLimits) -> None:
        self.explainer = explainer
        self.uploads = uploads
        self.limits = limits
        self.triggers = {plain(name): name for name in explainer.triggers}

    def dropped(self, upload: Any, trigger: Any, strength: Any) -> tuple[None, torch.Tensor | None, str]:
        """Takes an upload.

        Returns:
            Nothing for the box of files, the image as the model takes it for `changed`, and HTML.
        """
        try:
            data, name = self.uploads.take(upload, self.limits.upload_bytes)
            image = self.explainer.read(data, name, max_pixels=self.limits.pixels)
        except ClipAntidoteError as error:
            return None, None, render_problem(str(error))
        return None, image, self.changed(image, trigger, strength)

    def changed(self, image: torch.Tensor | None, trigger: Any, strength: Any) -> str:
        """Answers the image that was dropped last, with a trigger in it or none, as HTML."""
        if image is None:
            return render_welcome(len(self.triggers))
        try:
            name, amount = self._chosen(trigger, strength)
            return render_explanation(self.explainer.explain(image, name, amount), trigger=name, strength=amount)
        except ClipAntidoteError as error:
            return render_problem(str(error))

    def _chosen(self, trigger: Any, strength: Any) -> tuple[str | None, float]:
        """Trigger and strength as numbers and names that exist; a browser may send anything."""
        if not isinstance(strength, int | float):
            raise UsageError("the strength of a trigger is a number from 0 to 1")
        if trigger in (None, NO_TRIGGER):
            return None, 1.0
        if not isinstance(trigger, str) or trigger not in self.triggers:
            raise UsageError("there is no such trigger; choose one from the list")
        return self.triggers[trigger], float(strength)


def build_page(desk: Desk) -> Any:
    """Makes the page as `gradio.Blocks`."""
    import gradio as gr

    names = list(desk.triggers)
    with gr.Blocks(title="clip-antidote", analytics_enabled=False) as blocks:
        kept = gr.State(None, time_to_live=_KEPT_SECONDS)
        gr.HTML(f"<h1>clip-antidote</h1><p class='ca-soft'>{CAVEAT}</p>", elem_classes="ca-head")
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                suffixes = sorted(IMAGE_SUFFIXES)
                file = gr.File(label="Image", file_types=suffixes, height=170, elem_id="ca-file")
                trigger = gr.Dropdown(
                    [NO_TRIGGER, *names], value=NO_TRIGGER, label="Trigger", visible=bool(names), elem_id="ca-trigger"
                )
                strength = gr.Slider(
                    0, 1, value=1, step=0.05, label="Strength", visible=bool(names), elem_id="ca-strength"
                )
                gr.HTML(_terms(desk.limits))
            with gr.Column(scale=3, min_width=320):
                shown = gr.HTML(render_welcome(len(names)), elem_id="ca-shown")
        settings: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "answers", "api_name": False}
        file.upload(desk.dropped, [file, trigger, strength], [file, kept, shown], preprocess=False, **settings)
        for event in (trigger.change, strength.release):
            event(desk.changed, [kept, trigger, strength], shown, preprocess=False, **settings)
    blocks.queue(max_size=_WAITING, api_open=False)
    blocks.state_session_capacity = _SESSIONS
    blocks.has_launched = True  # else Gradio takes any file of this machine that a request names for an upload
    return blocks


def mount(blocks: Any, limits: ServeLimits, lifespan: Callable[[Any], Any]) -> Any:
    """Makes the application that serves the page: nothing of the file system, and no fonts from elsewhere."""
    import gradio as gr
    from fastapi import FastAPI

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        show_error=False,
        max_file_size=limits.upload_bytes,
        ssr_mode=False,
        theme=gr.themes.Base(**fonts),
        css=page_css(),
        footer_links=[],
    )


def _terms(limits: ServeLimits) -> str:
    return (
        f"<p class='ca-soft'>Up to {limits.upload_mb:g} MB and {limits.megapixels:g} million pixels. An upload is "
        "deleted as soon as it is read; the small copy that the model sees stays in memory while the page is open, "
        f"for {_KEPT_SECONDS // 60} minutes at most.</p>"
    )
