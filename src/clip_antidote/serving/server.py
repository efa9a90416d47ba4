"""Runs the page: on this machine only, offline, and with nothing left behind."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.util import find_spec
from typing import Any

from clip_antidote.errors import UnsupportedError, UsageError
from clip_antidote.jobs.explain import Explainer
from clip_antidote.serving.limits import Gatekeeper, ServeLimits
from clip_antidote.serving.offline import is_here, refuse_connections
from clip_antidote.serving.questions import names_only_uploads
from clip_antidote.serving.uploads import Uploads

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_FORGOTTEN_SECONDS, _SWEEP_SECONDS = 60, 15
_CONNECTIONS = 64


def require_gradio() -> None:
    """Makes sure before any work that Gradio is there.

    Raises:
        UnsupportedError: It is not.
    """
    if find_spec("gradio") is None:
        raise UnsupportedError("the page needs gradio; install it with: pip install 'clip-antidote[serve]'")


def open_port(host: str, port: int) -> socket.socket:
    """Takes a port.

    Raises:
        UsageError: It is taken or not allowed, or there is no such host here.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind)
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(address)
            taken.listen(128)
        except OSError:
            taken.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"cannot listen on {host}, port {port}: {reason}; choose others with --host and --port"
        ) from error
    return taken


def names_of(host: str) -> Collection[str] | None:
    """Names under which a page at a host may be called; None for any, where it listens on all addresses."""
    if host in LOCAL_NAMES or is_here(host):
        return LOCAL_NAMES | {host}
    return None if host in ("0.0.0.0", "::", "") else LOCAL_NAMES | {host.lower()}


def serve(
    explainer: Explainer, listening: socket.socket, host: str, limits: ServeLimits, ready: Callable[[str], None]
) -> None:
    """Serves the page until it is interrupted; the process connects to no other machine from then on.

    Args:
        explainer: Answers.
        listening: See `open_port`.
        host: What it listens on.
        limits: What the page takes.
        ready: Is told the address of the page.
    """
    uploads = Uploads()
    try:
        _quiet_gradio(uploads)
        import uvicorn

        app = build_app(explainer, uploads, limits, host)
        config = uvicorn.Config(
            app,
            loop="asyncio",  # others connect past Python's audit
            http="h11",
            ws="none",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_level="error",
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=1,
        )
        refuse_connections()
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{listening.getsockname()[1]}")
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        uploads.close()
        listening.close()


def build_app(explainer: Explainer, uploads: Uploads, limits: ServeLimits, host: str) -> Gatekeeper:
    """Makes the whole application: the page behind its gatekeeper, uploads swept while it runs."""
    from clip_antidote.serving.page import Desk, build_page, mount

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_sweep(uploads))
        try:
            yield
        finally:
            sweeping.cancel()
            uploads.close()  # a process that is told to end may get no further than this

    page = build_page(Desk(explainer, uploads, limits))
    accepts = partial(names_only_uploads, folder=uploads.folder)
    return Gatekeeper(mount(page, limits, lifespan), limits, names_of(host), accepts)


async def _sweep(uploads: Uploads) -> None:
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        uploads.sweep(_FORGOTTEN_SECONDS)


def _quiet_gradio(uploads: Uploads) -> None:
    """Settings that Gradio reads from the environment: our folder, and nothing that talks or listens besides."""
    off = ("ANALYTICS_ENABLED", "RUN_HISTORY", "SSR_MODE", "SHARE", "MCP_SERVER", "DEBUG", "VIBE_MODE")
    os.environ.update({f"GRADIO_{name}": "False" for name in off})
    os.environ.update({"GRADIO_TEMP_DIR": str(uploads.folder), "GRADIO_ALLOWED_PATHS": "", "HF_HUB_OFFLINE": "1"})
    os.environ.pop("GRADIO_ROOT_PATH", None)
