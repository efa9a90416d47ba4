"""The page in a real browser, as `clip-antidote serve` shows it; needs gradio, and for most a Chromium."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from PIL import Image

from browser import SKIPPED, browser, sideways
from clip_antidote.files import sha256_file
from clip_antidote.jobs.explain import Explainer
from clip_antidote.models.build import build_open_clip, save_open_clip
from clip_antidote.serving.limits import ServeLimits
from clip_antidote.serving.page import Desk, build_page
from clip_antidote.serving.uploads import Uploads
from clip_antidote.triggers import load_trigger
from conftest import SMALL, two_gate_classifier

pytest.importorskip("gradio", reason=f"{SKIPPED}: gradio, which serves it, is not installed (extra serve)")

EVIL = "<img src=x onerror=alert(1)>${1+1}{{7*7}}"
SCRIPT = """
import sys
from clip_antidote.cli.app import main
from clip_antidote.serving import offline, server

def refuse_and_watch():
    offline.refuse_connections()
    sys.addaudithook(watch)  # hears what the first one lets pass

def watch(event, arguments):
    place = offline._EVENTS.get(event)
    if place is not None and not offline.is_here(arguments[place]):
        print("went out:", event, arguments, flush=True)

server.refuse_connections = refuse_and_watch
main()
"""


@dataclass(frozen=True)
class Served:
    """A running page."""

    process: subprocess.Popen[str]
    address: str
    temporary: Path

    def uploads(self) -> list[Path]:
        """Everything in its folder of uploads that is a file."""
        return [path for path in self.temporary.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    torch.manual_seed(0)
    model = build_open_clip(SMALL)
    (folder / "small").mkdir()
    save_open_clip(model, None, folder / "small")
    model.spec = f"local-dir:{folder / 'small'}"
    model.sha256 = sha256_file(folder / "small" / "open_clip_model.safetensors")
    purified = two_gate_classifier(model, {"00-mask": load_trigger("blended")}).with_threshold(1e9)
    purified.classes = (EVIL, "b", "c")
    purified.save_pretrained(folder / "purified")
    (folder / "tmp").mkdir()
    command = [sys.executable, "-c", SCRIPT, "serve", str(folder / "purified"), "--trigger", "badnet"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--max-upload", "0.1", "--max-pixels", "0.02"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(folder / "tmp"), "GRADIO_SHARE": "True", "GRADIO_ANALYTICS_ENABLED": "True"},
    )
    assert process.stdout is not None
    line = ""
    for line in process.stdout:
        if "is shown at" in line:
            break
    try:
        yield Served(process, line.partition(" is shown at ")[2].partition(";")[0], folder / "tmp")
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as running:
        yield running


@pytest.fixture
def requests() -> list[str]:
    return []


@pytest.fixture
def page(served: Served, chromium: Any, requests: list[str]) -> Iterator[Any]:
    opened = chromium.new_page(viewport={"width": 1200, "height": 900})
    opened.on("request", lambda request: requests.append(request.url))
    opened.on("dialog", lambda dialog: pytest.fail("a script ran"))
    opened.goto(served.address)
    opened.wait_for_selector("#ca-welcome")
    yield opened
    opened.close()


def drop(page: Any, file: Path, selector: str) -> str:
    page.set_input_files("#ca-file input[type=file]", file)
    page.wait_for_selector(selector)
    return str(page.inner_text(".ca-page >> nth=-1"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (60, 40), (200, 80, 20)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_an_image_is_answered_and_not_kept(page: Any, photo: Path, served: Served, requests: list[str]) -> None:
    said = drop(page, photo, "#ca-before")
    assert "After purification" in said
    assert EVIL in page.inner_text("#ca-before"), "a name stays text, in the browser too"
    assert page.evaluate("[...document.querySelectorAll('.ca-page img')].every(i => i.naturalWidth == 32)")
    assert served.uploads() == []
    page.click("#ca-trigger input")
    page.get_by_role("option", name="dummy 00-mask").click()
    page.wait_for_selector("text=with dummy 00-mask at 100 %")
    page.fill("#ca-strength input[type=number]", "0.4")
    page.press("#ca-strength input[type=number]", "Enter")
    page.press("#ca-strength input[type=number]", "Tab")
    page.wait_for_selector("text=with dummy 00-mask at 40 %")
    hosts = {urlsplit(url).netloc for url in requests if not url.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(served.address).netloc}, "nothing is loaded from elsewhere"


def test_wrong_uploads_are_a_sentence(page: Any, photo: Path, tmp_path: Path, served: Served) -> None:
    (tmp_path / "text.png").write_text("this is no image")
    assert "cannot read image text.png" in drop(page, tmp_path / "text.png", "#ca-problem")
    drop(page, photo, "#ca-before")
    Image.new("L", (9000, 9000)).resize((150, 150)).save(tmp_path / "huge.png")
    assert "more than 20000 pixels" in drop(page, tmp_path / "huge.png", "#ca-problem")
    assert served.uploads() == []
    (tmp_path / "heavy.png").write_bytes(photo.read_bytes() + bytes(200_000))
    page.set_input_files("#ca-file input[type=file]", tmp_path / "heavy.png")
    page.wait_for_selector("text=exceed the maximum allowed size")
    assert served.uploads() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone(served: Served, chromium: Any, photo: Path, scheme: str) -> None:
    page = chromium.new_page(viewport={"width": 400, "height": 800}, color_scheme=scheme)
    page.goto(served.address)
    page.wait_for_selector("#ca-welcome")
    drop(page, photo, "#ca-before")
    assert sideways(page) <= 0
    page.close()


def get(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_no_file_is_served(served: Served, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    assert get(served.address) == 200
    for path in (f"{tmp_path}/secret.txt", "/etc/passwd", str(served.temporary)):
        for route in ("gradio_api/file=", "file=", "gradio_api/proxy=", "static/", "assets/", "assets/../../"):
            assert get(f"{served.address}/{route}{path}") in (403, 404), route


@pytest.mark.parametrize("path", ["http://example.com/a.png", "http://192.0.2.1/a.png", "/etc/passwd", __file__])
def test_a_request_cannot_name_a_file_or_an_address(served: Served, path: str) -> None:
    """Gradio fetches a URL that stands in the place of an upload; this page does not."""
    file = {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}
    question = {"data": [file, "none", 1], "fn_index": 0, "session_hash": "abc", "event_data": None}
    asked = urllib.request.Request(
        f"{served.address}/gradio_api/queue/join",
        json.dumps(question).encode(),
        {"content-type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(asked, timeout=20)


@pytest.mark.parametrize("path", ["/etc/passwd", __file__])
def test_gradio_itself_takes_uploads_only(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the gatekeeper stands Gradio's own check, which a mounted page does not have by itself."""
    from gradio import processing_utils
    from gradio.context import LocalContext

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    uploads, limits = Uploads(), ServeLimits()
    purified = two_gate_classifier(build_open_clip(SMALL))
    page = build_page(Desk(Explainer(purified), uploads, limits))
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    token = LocalContext.blocks.set(page)
    try:
        box = next(block for block in page.blocks.values() if type(block).__name__ == "File")
        with pytest.raises(Exception, match="not uploaded by a user"):
            processing_utils.move_files_to_cache([file], box, check_in_upload_folder=True)
    finally:
        LocalContext.blocks.reset(token)
        uploads.close()


def test_in_the_end_nothing_is_left(served: Served) -> None:
    """The last one: it stops the page."""
    assert Path(tempfile.gettempdir()) != served.temporary
    assert [path for path in served.temporary.iterdir() if path.name.startswith("clip-antidote-uploads-")]
    served.process.send_signal(signal.SIGINT)
    said, _ = served.process.communicate(timeout=60)
    assert served.process.returncode == 0
    assert "went out" not in said
    assert "nothing that was uploaded is left" in said
    assert not [path for path in served.temporary.iterdir() if path.name.startswith("clip-antidote-uploads-")]
