"""What stands around the page, without Gradio: limits, uploads, the refusal of connections, and its HTML."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from clip_antidote.errors import DataError, UnsupportedError, UsageError
from clip_antidote.jobs.explain import Explainer
from clip_antidote.jobs.explanation import ClassScore, Explanation, GateReading, ViewVote
from clip_antidote.models import DualEncoder
from clip_antidote.models.attribution import HeatMap
from clip_antidote.reporting.heat import heat_overlay
from clip_antidote.reporting.images import to_png
from clip_antidote.serving import server
from clip_antidote.serving.limits import ASK, UPLOAD, App, Gatekeeper, Message, Rate, Receive, Send, ServeLimits
from clip_antidote.serving.offline import is_here
from clip_antidote.serving.page import Desk
from clip_antidote.serving.questions import names_only_uploads
from clip_antidote.serving.render import render_explanation, render_problem
from clip_antidote.serving.server import LOCAL_NAMES, names_of, open_port, require_gradio
from clip_antidote.serving.uploads import Uploads
from clip_antidote.triggers import load_trigger
from conftest import Cli, two_gate_classifier

EVIL = '<script>alert("1")</script>${1+1}{{7*7}}'
HERE = {"host": "localhost:7860"}


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Reads a body to its end and says how long it was."""
    total, more = 0, True
    while more:
        message = await receive()
        total, more = total + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"Cache-Control", b"public")]})
    await send({"type": "http.response.body", "body": str(total).encode()})


def ask(
    app: App, path: str, method: str = "GET", headers: dict[str, str] | None = None, body: tuple[bytes, ...] = (b"",)
) -> tuple[int, dict[str, str], str]:
    """Sends one request to an ASGI application; the body in parts, as they come over a wire."""
    sent: list[Message] = []
    parts = [{"type": "http.request", "body": p, "more_body": i + 1 < len(body)} for i, p in enumerate(body)]

    async def receive() -> Message:
        return parts.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in {**HERE, **(headers or {})}.items()]
    scope = {"type": "http", "path": path, "method": method, "headers": raw, "client": ("127.0.0.1", 1)}
    asyncio.run(app(scope, receive, send))
    answered = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, sent[1]["body"].decode()


def gatekeeper(**limits: Any) -> Gatekeeper:
    return Gatekeeper(echo, ServeLimits.build(limits), LOCAL_NAMES, accepts=lambda body: body != b"no")


@pytest.mark.parametrize("path", ["/", "/config", "/assets/index.js", "/gradio_api/queue/data", "/static/js/a.js"])
def test_what_the_page_needs_is_there(path: str) -> None:
    assert ask(gatekeeper(), path)[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/file=/etc/passwd"),
        ("GET", "/gradio_api/proxy=http://evil.example/"),
        ("GET", "/gradio_api/info"),
        ("GET", "/static/../../secret"),
        ("GET", "/docs"),
        ("GET", "/gradio_api/stream/a/b/1"),
        ("GET", UPLOAD),
        ("POST", "/"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/vibe-edit/"),
        ("PUT", UPLOAD),
        ("DELETE", ASK),
        ("OPTIONS", ASK),
    ],
)
def test_nothing_else_is_there(method: str, path: str) -> None:
    assert ask(gatekeeper(), path, method)[0] == 404


def test_browsers_are_told_to_load_nothing_from_elsewhere() -> None:
    for path, method in (("/", "GET"), ("/nothing", "GET"), (UPLOAD, "POST")):
        headers = ask(gatekeeper(), path, method)[1]
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert "http" not in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store", "ours win"
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1:7860", "[::1]:7860"])
def test_it_answers_under_its_own_names(host: str) -> None:
    assert ask(gatekeeper(), "/", headers={"host": host})[0] == 200
    assert ask(gatekeeper(), "/", headers={"host": host, "origin": f"http://{host}"})[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "[", "127.0.0.1.evil.example:7860"])
def test_names_that_point_here_from_elsewhere_are_refused(host: str) -> None:
    assert ask(gatekeeper(), "/", headers={"host": host})[0] == 421
    assert ask(Gatekeeper(echo, ServeLimits(), None, bool), "/", headers={"host": host})[0] == 200, (
        "asked for by --host"
    )


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:7861"])
def test_other_pages_cannot_ask(origin: str) -> None:
    assert ask(gatekeeper(), ASK, "POST", {"origin": origin})[0] == 403


def test_only_so_much_is_taken() -> None:
    small = gatekeeper(upload_mb=0.1)
    fits, large = b"x" * 100_000, b"x" * 200_000
    assert ask(small, UPLOAD, "POST", {"content-length": "100000"}, (fits,))[2] == "100000"
    for length in ("200000", "9" * 5000, "-1", "x"):
        status, _, said = ask(small, UPLOAD, "POST", {"content-length": length})
        assert (status, said) == (413, "the upload is too large: at most 0.1 MB; scale the image down")
    assert ask(small, UPLOAD, "POST", body=(fits, large))[0] == 413, "whatever the length was said to be"
    assert ask(gatekeeper(), ASK, "POST", body=(large,))[0] == 413, "a question is short"


def test_a_question_is_looked_at_before_it_is_asked() -> None:
    assert ask(gatekeeper(), ASK, "POST", body=(b"y", b"es"))[2] == "3", "it arrives as it was"
    assert ask(gatekeeper(), ASK, "POST", body=(b"n", b"o"))[0] == 403


@pytest.mark.parametrize(
    ("question", "good"),
    [
        ({"data": [{"path": "{folder}/abc/a.png"}, "none", 1]}, True),
        ({"data": [None, "none", 1]}, True),
        ({"data": [{"path": "{folder}/abc/a.png"}, {"path": "/etc/passwd"}]}, False),
        ({"data": [{"path": "{folder}/../../etc/passwd"}]}, False),
        ({"data": [{"path": "{folder}"}]}, False),
        ({"data": [{"path": "http://example.com/a.png"}]}, False),
        ({"data": [[{"a": {"path": "https://example.com/a.png"}}]]}, False),
        ({"path": None}, False),
        ({"path": ["{folder}/abc/a.png"]}, False),
        ({"path": "\0"}, False),
    ],
)
def test_a_question_names_uploads_only(question: Any, good: bool, tmp_path: Path) -> None:
    body = json.dumps(question).replace("{folder}", str(tmp_path)).encode()
    assert names_only_uploads(body, tmp_path) == good


def test_a_question_is_json(tmp_path: Path) -> None:
    for body in (b"", b"{", b"\xff", b"[" * 60_000):
        assert not names_only_uploads(body, tmp_path)


def test_only_so_often() -> None:
    often = gatekeeper(per_minute=3)
    assert [ask(often, ASK, "POST")[0] for _ in range(4)] == [200, 200, 200, 429]
    assert "at most 3 a minute" in json.loads(ask(often, ASK, "POST")[2])["detail"]
    assert ask(often, UPLOAD, "POST")[2].startswith("too many requests"), "plain text, as the page shows it"
    assert ask(often, "/")[0] == 200, "reading is free"


def test_rates_refill_and_are_of_each_client() -> None:
    now = 0.0
    rate = Rate(2, clock=lambda: now)
    assert [rate.allows("a") for _ in range(3)] == [True, True, False]
    assert rate.allows("b")
    now = 29.0
    assert not rate.allows("a")
    now = 60.0
    assert rate.allows("a")
    for number in range(5000):
        rate.allows(str(number))
    assert len(rate._left) == 1000


@pytest.mark.parametrize("values", [{"upload_mb": 0}, {"megapixels": -1}, {"per_minute": 0}, {"upload_mb": 10**9}])
def test_limits_have_ranges(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))):
        ServeLimits.build(values)


@pytest.fixture
def uploads() -> Iterator[Uploads]:
    made = Uploads()
    yield made
    made.close()


def put(uploads: Uploads, data: bytes = b"data", name: str = "a.png") -> Path:
    """Lays an upload where Gradio does: in a folder by its hash."""
    folder = uploads.folder / "abc"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


def test_an_upload_is_deleted_when_it_is_read(uploads: Uploads) -> None:
    path = put(uploads)
    assert uploads.take({"path": str(path)}, 10) == (b"data", "a.png")
    assert list(uploads.folder.iterdir()) == []
    with pytest.raises(DataError, match="not there any more"):
        uploads.take({"path": str(path)}, 10)
    with pytest.raises(DataError, match="larger than 3e-06 MB"):
        uploads.take({"path": str(put(uploads))}, 3)
    assert list(uploads.folder.iterdir()) == [], "deleted all the same"


def test_nothing_but_uploads_is_read_or_deleted(uploads: Uploads, tmp_path: Path) -> None:
    mine = tmp_path / "mine.png"
    mine.write_bytes(b"mine")
    (uploads.folder / "link.png").symlink_to(mine)
    inside = str(uploads.folder)
    wrong: list[Any] = [None, "x", [], {}, {"path": None}, {"path": str(mine)}, {"path": f"{inside}/../{mine}"}]
    wrong += [{"path": f"{inside}/link.png"}, {"path": inside}, {"path": "\0"}, {"path": "x" * 5000}, {"path": "."}]
    for said in wrong:
        with pytest.raises(DataError, match="drop the image again"):
            uploads.take(said, 100)
    assert mine.read_bytes() == b"mine"


def test_what_nobody_asks_about_is_swept(uploads: Uploads) -> None:
    old = put(uploads).parent
    os.utime(old, (time.time() - 100,) * 2)
    (uploads.folder / "tmpnew").write_bytes(b"")
    uploads.sweep(60)
    assert [path.name for path in uploads.folder.iterdir()] == ["tmpnew"]
    assert uploads.folder.stat().st_mode & 0o077 == 0, "nobody else may read it"
    uploads.close()
    assert not uploads.folder.exists()
    uploads.sweep(60)


@pytest.mark.parametrize(
    ("address", "here"),
    [
        (("127.0.0.1", 80), True),
        (("::1", 80, 0, 0), True),
        ("localhost", True),
        (b"127.0.0.1", True),
        (None, True),
        (("192.0.2.1", 80), False),
        (("0.0.0.0", 80), False),
        ("example.com", False),
        ("localhost.example.com", False),
        ("/run/some.sock", False),
    ],
)
def test_which_addresses_are_here(address: Any, here: bool) -> None:
    assert is_here(address) == here


TRIES = """
import asyncio, socket, urllib.request
from clip_antidote.serving.offline import refuse_connections
refuse_connections()
refuse_connections()
async def later():
    await asyncio.open_connection("192.0.2.1", 80)
def datagram():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53))
for go in (
    lambda: socket.create_connection(("192.0.2.1", 80), timeout=2),
    lambda: socket.getaddrinfo("example.com", 80),
    lambda: socket.gethostbyname("example.com"),
    lambda: urllib.request.urlopen("http://192.0.2.1/", timeout=2),
    lambda: asyncio.run(later()),
    datagram,
):
    try:
        go()
    except OSError as error:
        assert "connects to no other machine" in str(error), error
    else:
        raise SystemExit("connected")
listening = socket.create_server(("127.0.0.1", 0))
socket.create_connection(listening.getsockname()).close()
print("fine")
"""


def test_nothing_connects_to_elsewhere() -> None:
    ran = subprocess.run([sys.executable, "-c", TRIES], capture_output=True, text=True)
    assert ran.stdout == "fine\n", ran.stderr


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("127.0.0.1", LOCAL_NAMES),
        ("localhost", LOCAL_NAMES),
        ("0.0.0.0", None),
        ("::", None),
        ("192.0.2.7", LOCAL_NAMES | {"192.0.2.7"}),
        ("My-Box", LOCAL_NAMES | {"my-box"}),
    ],
)
def test_names_follow_from_the_host(host: str, names: frozenset[str] | None) -> None:
    assert names_of(host) == names


def test_a_port_that_is_taken_is_a_sentence() -> None:
    with open_port("127.0.0.1", 0) as taken:
        assert taken.getsockname()[0] == "127.0.0.1"
        number = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1, port {number}: .*--port"):
            open_port("127.0.0.1", number)
    with pytest.raises(UsageError, match=r"cannot listen on 192\.0\.2\.1"):
        open_port("192.0.2.1", 0)


def test_gradio_is_asked_for_before_any_work(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"clip-antidote\[serve\]"):
        require_gradio()
    ran = cli("serve", "nowhere")
    assert ran.status == 3
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["nowhere"], 2, "not a purified classifier"),
        (["nowhere", "--rate", "0"], 4, "per_minute"),
        (["nowhere", "--max-pixels", "nan"], 4, "megapixels"),
        (["nowhere", "--port", "70000"], 4, "--port"),
        (["nowhere", "--host", "192.0.2.1"], 4, "cannot listen on 192.0.2.1"),
    ],
)
def test_wrong_use_is_a_sentence(
    arguments: list[str], status: int, said: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "find_spec", lambda name: name)
    ports = [] if "--port" in arguments else ["--port", 0]
    ran = cli("serve", *arguments, *ports)
    assert ran.status == status
    assert said in ran.err
    assert "Traceback" not in ran.err


def explanation(name: str = EVIL, *, stopped: bool = True) -> Explanation:
    image, heat = torch.rand(3, 8, 8), HeatMap(torch.rand(8, 8), "gradient × activation", "layer4")
    scores = (ClassScore(name, 0.9), ClassScore("other", 0.1))
    votes = tuple(ViewVote(f"view {i}", image, name, 0.8, i < 2) for i in range(3)) if stopped else ()
    return Explanation(image, scores, scores, name, GateReading(name, -0.25, 0.7, stopped), votes, heat, heat)


def test_names_cannot_become_markup() -> None:
    page = render_explanation(explanation(), trigger=EVIL, strength=0.35)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 8
    assert "at 35 %" in page
    assert "<script" not in render_problem(EVIL)
    assert "src=" in page
    assert all(part.startswith('"data:image/png;base64,') for part in page.split("src=")[1:])
    assert "http" not in page


def test_the_page_says_what_happened() -> None:
    page = render_explanation(explanation("hat"))
    assert "Stopped by the gate" in page
    assert "−0.25, below the threshold 0.70" in page
    assert "2 of 3 other views vote for the answer" in page
    page = render_explanation(explanation("hat", stopped=False))
    assert "Passed the gate" in page
    assert "Which views voted" not in page


def test_a_heat_map_lies_over_its_image() -> None:
    image, heat = torch.full((3, 8, 8), 0.5), torch.zeros(8, 8)
    heat[2, 3] = 1
    overlay = heat_overlay(image, heat)
    assert overlay.shape == image.shape
    assert overlay.mean(dim=0).argmax() == 2 * 8 + 3
    assert to_png(overlay).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="does not fit"):
        heat_overlay(image, torch.zeros(4, 4))


@pytest.fixture
def desk(small_model: DualEncoder, uploads: Uploads) -> Desk:
    purified = two_gate_classifier(small_model)
    limits = ServeLimits.build({"upload_mb": 0.01, "megapixels": 0.01})
    return Desk(Explainer(purified, {"badnet": load_trigger("badnet")}), uploads, limits)


def test_the_desk_takes_an_image_and_forgets_the_file(desk: Desk) -> None:
    path = put(desk.uploads, to_png(torch.rand(3, 40, 40)))
    box, image, page = desk.dropped({"path": str(path)}, "none", 1)
    assert box is None
    assert image is not None
    assert image.shape == (3, 32, 32)
    assert "Before purification" in page
    assert not path.exists()
    assert "with <bdi>badnet</bdi> at 50 %" in desk.changed(image, "badnet", 0.5)
    assert "Drop an image" in desk.changed(None, "badnet", 0.5)


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"hello, no image", "cannot read image a.png"), (b"x" * 20_000, "larger than 0.01 MB"), (b"", "cannot read")],
)
def test_the_desk_says_what_is_wrong_with_an_upload(desk: Desk, data: bytes, said: str) -> None:
    path = put(desk.uploads, data)
    box, image, page = desk.dropped({"path": str(path)}, "none", 1)
    assert (box, image) == (None, None)
    assert said in page
    assert not path.exists()


def test_a_huge_image_is_not_decoded(desk: Desk) -> None:
    page = desk.dropped({"path": str(put(desk.uploads, to_png(torch.zeros(3, 101, 100))))}, "none", 1)[2]
    assert "more than 10000 pixels" in page


@pytest.mark.parametrize(
    ("trigger", "strength"), [("x", 1), (["badnet"], 1), ({}, 1), ("badnet", "1"), ("badnet", None), ("badnet", 7)]
)
def test_the_desk_believes_no_browser(desk: Desk, trigger: Any, strength: Any) -> None:
    assert 'id="ca-problem"' in desk.changed(torch.zeros(3, 32, 32, dtype=torch.uint8), trigger, strength)


def test_a_socket_is_given_back(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    monkeypatch.setattr(server, "find_spec", lambda name: name)
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    assert cli("serve", "nowhere", "--port", number).status == 2
    open_port("127.0.0.1", number).close()
