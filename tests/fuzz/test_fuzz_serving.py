"""What a browser may send to `serve`: requests, questions, uploads and choices, mutated."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from guard import fuzz
from inputs import picture
from mutations import HOSTILE, mutate_bytes, mutate_json, mutate_tree
from PIL import ExifTags, Image

from clip_antidote.jobs.explain import Explainer
from clip_antidote.models.build import build_open_clip
from clip_antidote.serving.limits import ASK, HEADERS, READ, UPLOAD, Gatekeeper, Message, Receive, Send, ServeLimits
from clip_antidote.serving.page import Desk
from clip_antidote.serving.questions import names_only_uploads
from clip_antidote.serving.server import LOCAL_NAMES
from clip_antidote.serving.uploads import Uploads
from clip_antidote.triggers import load_trigger
from conftest import SMALL, two_gate_classifier

LIMITS = ServeLimits.build({"upload_mb": 0.02, "megapixels": 0.01, "per_minute": 10**6})
TEXTS = [value for value in HOSTILE if isinstance(value, str)]
EVIL = "<img src=x onerror=alert(1)>"


class Behind:
    """What stands behind the gatekeeper: notes what gets there, and reads it to its end."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes]] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.requests.append((scope["method"], scope["path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answered"})


def headers(draw: random.Random) -> list[tuple[bytes, bytes]]:
    """Those of an honest browser, of which some are changed, doubled or left out."""
    good = {"host": "localhost:7860", "origin": "http://localhost:7860", "content-length": "10", "accept": "*/*"}
    hosts = ["evil.example", "localhost.evil", "[", "[::1]:7860", "127.0.0.1:99999999", "a:b:c", "user@localhost", ""]
    found = []
    for name, value in good.items():
        kind = draw.random()
        if kind < 0.1:
            value = draw.choice([*TEXTS, *hosts, "9" * 5000, "-1", "1e3", "²", "١"])
        if kind > 0.04:
            found.append((name.encode(), value[:5000].encode("latin-1", "replace")))
        if kind > 0.97:
            found.append((name.upper().encode(), draw.choice(hosts).encode()))
    return found


def path(draw: random.Random) -> str:
    tails = ["file=/etc/passwd", "proxy=http://evil", "run/predict", "../x", "..%2f..", "\0", "//", "?x", "\u2028"]
    kind = draw.random()
    if kind < 0.5:
        return draw.choice([ASK, UPLOAD])
    if kind < 0.7:
        return draw.choice(sorted(READ))
    start = draw.choice(["/", "/assets/", "/static/", "/gradio_api/", "/gradio_api/heartbeat/", ASK, UPLOAD, ""])
    return start + draw.choice([*tails, *(text[:300] for text in TEXTS)])


def question(draw: random.Random, folder: Path) -> bytes:
    inside = str(folder / "abc" / "a.png")
    asked: dict[str, Any] = {
        "data": [{"path": inside, "meta": {"_type": "gradio.FileData"}}, "none", 1],
        "fn_index": 0,
    }
    odd = ["/etc/passwd", "http://evil/x", f"{folder}/../x", str(folder), "\0", "file:///etc/passwd", "~/x", 5, None]
    if draw.random() < 0.4:
        asked["data"][0]["path"] = draw.choice(odd)
    return mutate_json(asked, draw) if draw.random() < 0.7 else json.dumps(asked).encode()


def paths_in(question: bytes) -> list[Any]:
    """Every "path" in what was asked, found in another way than by the code that looks for them."""
    found: list[Any] = []

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found.extend(inner for key, inner in pairs if key == "path")
        return dict(pairs)

    json.loads(question, object_pairs_hook=note)
    return found


def test_requests(tmp_path: Path) -> None:
    uploads = (tmp_path / "uploads").resolve()
    (uploads / "abc").mkdir(parents=True)
    answered: set[int] = set()

    def case(draw: random.Random, folder: Path) -> Callable[[], object]:
        asked = path(draw)
        method = draw.choice(["GET", "POST", "POST", "POST", "HEAD", "PUT", "OPTIONS", "get", "", "X" * 300])
        body = question(draw, uploads) if asked == ASK else draw.randbytes(draw.choice([0, 10, 1000, 200_000]))
        cuts = sorted(draw.randrange(len(body) + 1) for _ in range(draw.choice([0, 0, 1, 5])))
        parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        client = draw.choice([("127.0.0.1", 1), None, ("", 0), ("x" * 1000, 1)])
        scope = {"type": "http", "path": asked, "method": method, "headers": headers(draw), "client": client}
        behind, sent = Behind(), list[Message]()
        gate = Gatekeeper(behind, LIMITS, LOCAL_NAMES, lambda said: names_only_uploads(said, uploads))

        async def receive() -> Message:
            return {"type": "http.request", "body": parts.pop(0) if parts else b"", "more_body": bool(parts)}

        async def send(message: Message) -> None:
            sent.append(message)

        loop = asyncio.new_event_loop()  # its sockets are no connections, but made before the case is watched

        def read() -> None:
            try:
                loop.run_until_complete(gate(scope, receive, send))
            finally:
                loop.close()
            status = sent[0]["status"]
            answered.add(status)
            assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
            assert status in (200, 403, 404, 413, 421), status
            assert dict(sent[0]["headers"]).items() >= {k.encode(): v.encode() for k, v in HEADERS.items()}.items()
            assert (status == 200) == bool(behind.requests)
            for got, place, arrived in behind.requests:
                assert ".." not in place
                assert got in ("GET", "HEAD") or (got == "POST" and place in (ASK, UPLOAD))
                assert arrived == body, "what arrives is what was sent"
                for named in paths_in(arrived) if place == ASK else ():
                    assert uploads in Path(named).resolve().parents

        return read

    fuzz(600, tmp_path / "cases", case)
    assert answered == {200, 403, 404, 413, 421}


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    torch.manual_seed(0)
    purified = two_gate_classifier(build_open_clip(SMALL).eval())
    purified.classes = (EVIL, *purified.classes[1:])
    return Explainer(purified, {"badnet": load_trigger("badnet"), EVIL: load_trigger("blended")})


def image(draw: random.Random) -> bytes:
    """An image file as people upload them, or what only looks like one."""
    form = draw.choice(["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
    if draw.random() < 0.3:
        return picture(form)
    if draw.random() < 0.2:
        large = [b"P6 99999 99999 255\n", b"x" * 10**5]
        return draw.choice([b"", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg onload=alert(1)>", *large])
    exif, out = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = draw.choice([1, 3, 6, 8, 99])
    mode, size = draw.choice(["RGB", "L", "P", "RGBA", "1"]), (draw.choice([1, 7, 40, 500]), draw.choice([1, 30]))
    picture_of_mode = Image.new(mode if form in ("PNG", "TIFF") else "RGB", size)
    picture_of_mode.save(out, form, **({"exif": exif} if form in ("PNG", "JPEG", "WEBP") else {}))
    return mutate_bytes(out.getvalue(), draw) if draw.random() < 0.6 else out.getvalue()


def test_uploads_and_choices(tmp_path: Path, explainer: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: set[bool] = set()

    def case(draw: random.Random, folder: Path) -> Callable[[], object]:
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        uploads, own = Uploads(), folder / "thesis.png"
        own.write_bytes(picture())
        name = draw.choice(["a.png", EVIL + ".png", "[/x].jpg", "\x1b[2J.png", "ü" * 60, "a\nb.png", "x" * 200, "-"])
        place = uploads.folder / "abc" / name.replace("/", "_")
        place.parent.mkdir()
        place.write_bytes(image(draw))
        odd = [
            str(own),
            str(folder),
            f"{uploads.folder}/../thesis.png",
            str(uploads.folder / "link.png"),
            "/dev/zero",
        ]
        os.symlink(own, uploads.folder / "link.png")
        said: Any = {"path": str(place), "size": 3, "orig_name": name}
        if draw.random() < 0.3:
            said = draw.choice([*({"path": other} for other in [*odd, *HOSTILE]), mutate_tree(said, draw), *HOSTILE])
        trigger = draw.choice(["none", "badnet", EVIL, None, *HOSTILE]) if draw.random() < 0.5 else "badnet"
        strength = draw.choice([0, 1, True, *HOSTILE]) if draw.random() < 0.4 else draw.random()
        desk = Desk(explainer, uploads, LIMITS)

        def read() -> None:
            box, kept, page = desk.dropped(said, trigger, strength)
            again = desk.changed(kept, trigger, strength)
            shown.add('id="ca-problem"' not in page)
            assert box is None
            for html in (page, again):
                assert "<img src=x" not in html
                assert "<script" not in html
                assert "<svg onload" not in html
                assert "\x1b" not in html
                assert len(html) < 10**6
            assert kept is None or kept.shape == (3, 32, 32)
            assert own.read_bytes() == picture(), "nothing but uploads is read away"
            uploads.close()
            assert not uploads.folder.exists()

        return read

    fuzz(120, tmp_path / "cases", case)
    assert shown == {True, False}
