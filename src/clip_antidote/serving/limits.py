"""What the page takes: how large, how often, from whom, and which addresses there are at all."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Coroutine, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from clip_antidote.config import Config

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Coroutine[Any, Any, None]]

_API = ("startup-events", "queue/data", "upload_progress")
READ = frozenset({"/", "/config", "/theme.css", "/favicon.ico", *(f"/gradio_api/{name}" for name in _API)})
READ_BELOW = ("/assets/", "/static/", "/gradio_api/heartbeat/")
UPLOAD, ASK = "/gradio_api/upload", "/gradio_api/queue/join"
"""The addresses that the page uses. There is nothing at any other, above all not Gradio's `file=` and `proxy=`."""

ASK_BYTES = ENVELOPE = 64 * 1024
"""Of a question about an upload, and of what a browser wraps around an upload."""

_CLIENTS = 1000
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Sent with every answer; the policy keeps a browser from loading anything from elsewhere."""


class ServeLimits(Config):
    """What the page takes.

    Attributes:
        upload_mb: Largest upload in megabytes.
        megapixels: Largest image in millions of pixels; never above `data.sources.MAX_PIXELS`.
        per_minute: Uploads and questions of one client in a minute.
    """

    upload_mb: float = Field(default=20, gt=0, le=1000)
    megapixels: float = Field(default=50, gt=0)
    per_minute: int = Field(default=120, ge=1)

    @property
    def upload_bytes(self) -> int:
        """Largest upload in bytes."""
        return int(self.upload_mb * 10**6)

    @property
    def pixels(self) -> int:
        """Largest image in pixels."""
        return int(self.megapixels * 10**6)


class Rate:
    """Counts requests: `per_minute` at once, then evenly.

    Args:
        per_minute: How many a client may send.
        clock: Seconds, growing.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, client: str) -> bool:
        """Whether a client may send one more now; counts it if so."""
        now = self._clock()
        left, before = self._left.pop(client, (float(self.per_minute), now))
        left = min(self.per_minute, left + (now - before) * self.per_minute / 60)
        allowed = left >= 1
        self._left[client] = (left - allowed, now)
        while len(self._left) > _CLIENTS:
            self._left.popitem(last=False)
        return allowed


class _TooLargeError(Exception):
    """A body went over its limit while it was read."""


class Gatekeeper:
    """Stands before an ASGI application and turns away what the page does not need.

    Args:
        app: The application.
        limits: What it takes.
        hosts: Names under which it may be called, without ports; None for any. A page of somebody else that made a
            name of its own point here (DNS rebinding) is turned away by them.
        accepts: Whether the body of a question may be asked.
        rate: Counts the requests.
    """

    def __init__(
        self,
        app: App,
        limits: ServeLimits,
        hosts: Collection[str] | None,
        accepts: Callable[[bytes], bool],
        rate: Rate | None = None,
    ) -> None:
        self.app = app
        self.limits = limits
        self.hosts = hosts
        self.accepts = accepts
        self.rate = rate or Rate(limits.per_minute)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers a request; see the ASGI specification."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page needs no websocket
            await send({"type": "websocket.close"})
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refusal(scope, headers)
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                kept = [
                    pair for pair in message.get("headers", []) if pair[0].lower().decode("latin-1") not in HEADERS
                ]
                message = {**message, "headers": [*kept, *ours]}
            await send(message)

        if refused is not None:
            await _say(guarded, scope["path"], *refused)
            return
        try:
            counted = _counted(receive, self._most(scope["path"]))
            if scope["path"] == ASK:
                body = await _whole(counted)
                if not self.accepts(body):
                    await _say(guarded, ASK, 403, "this page answers questions about its uploads only")
                    return
                counted = _again(body, receive)
            await self.app(scope, counted, guarded)
        except _TooLargeError:
            if not started:
                await _say(guarded, scope["path"], 413, self._too_large())

    def _refusal(self, scope: Message, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and sentence where a request is turned away; None where it may go on."""
        host, method, path = headers.get("host", ""), scope["method"], scope["path"]
        name = urlsplit(f"//{host}").hostname if _parses(host) else None
        if self.hosts is not None and name not in self.hosts:
            return 421, "this page does not answer under that name"
        if "origin" in headers and headers["origin"] not in (f"http://{host}", f"https://{host}"):
            return 403, "this page answers its own requests only"
        reads = path in READ or path.startswith(READ_BELOW)
        if ".." in path or not (reads if method in ("GET", "HEAD") else method == "POST" and path in (UPLOAD, ASK)):
            return 404, "there is nothing here"
        if method != "POST":
            return None
        if not self.rate.allows(str((scope.get("client") or ("",))[0])):
            return 429, f"too many requests: at most {self.limits.per_minute} a minute; wait a moment and try again"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self._most(path):
            return 413, self._too_large()
        return None

    def _most(self, path: str) -> int:
        return ASK_BYTES if path != UPLOAD else self.limits.upload_bytes + ENVELOPE

    def _too_large(self) -> str:
        return f"the upload is too large: at most {self.limits.upload_mb:g} MB; scale the image down"


def _parses(host: str) -> bool:
    try:
        return urlsplit(f"//{host}").hostname is not None
    except ValueError:
        return False


def _counted(receive: Receive, most: int) -> Receive:
    """Passes a body on until it is larger than it may be."""
    total = 0

    async def counting() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > most:
            raise _TooLargeError
        return message

    return counting


async def _whole(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already, and then what comes after it."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receiving() -> Message:
        return waiting.pop() if waiting else await receive()

    return receiving


async def _say(send: Send, path: str, status: int, sentence: str) -> None:
    """Answers with a sentence in the form in which the page shows it: of uploads it shows the text as it is."""
    kind, text = "text/plain; charset=utf-8", sentence
    if path == ASK:
        kind, text = "application/json", json.dumps({"detail": sentence})
    headers = [(b"content-type", kind.encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
