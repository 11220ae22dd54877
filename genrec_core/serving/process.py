"""Runs the server: opens the model, listens, reloads on SIGHUP, ends on SIGTERM after what is in flight."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from genrec_core.errors import GenrecError
from genrec_core.serving.app import Server, build_app
from genrec_core.serving.metrics import Metrics
from genrec_core.serving.models import ModelHolder
from genrec_core.settings import ServingSettings

LOG = logging.getLogger("genrec.serving")
TOKEN = "GENREC_TOKEN"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(model_dir: Path | None, settings: ServingSettings, token: str | None) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        model_dir: an exported model, or a link to one; None for the release that is served.
        settings: where to listen, and limits.
        token: what clients must show as ``Authorization: Bearer``; None lets everyone in.

    Raises:
        GenrecError: the model cannot be opened, or the port is taken.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    metrics = Metrics()
    holder = ModelHolder(model_dir, settings, metrics)
    holder.load()
    if token is None and settings.host not in _LOOPBACK:
        LOG.warning("listening on %s without a token: whoever reaches the port is served", settings.host)
    config = uvicorn.Config(
        build_app(Server(holder, settings, metrics, token)),
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=settings.grace_seconds,
        timeout_keep_alive=settings.keep_alive_seconds,
        server_header=False,
    )
    asyncio.run(_run(_Server(config), holder))


class _Server(uvicorn.Server):
    """Ends on a signal as at the end of its work, not by raising the signal again."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


async def _run(server: uvicorn.Server, holder: ModelHolder) -> None:
    loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    def reload() -> None:
        task = loop.create_task(_reload(holder))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        await server.serve()
    except SystemExit as error:  # uvicorn's way to say that it cannot listen
        raise GenrecError(
            f"cannot listen on {server.config.host} port {server.config.port}; see above, or choose another --port"
        ) from error


async def _reload(holder: ModelHolder) -> None:
    try:
        changed = await asyncio.to_thread(holder.load)
    except GenrecError as error:
        LOG.error("reload failed, the model before goes on serving: %s", error)
        return
    LOG.info("reload: %s", f"version {holder.current.version}" if changed and holder.current else "unchanged")


def read_token(path: Path | None) -> str | None:
    """The token of ``--token_file``, else of the environment.

    Raises:
        GenrecError: the file cannot be read, or is empty.
    """
    if path is None:
        return os.environ.get(TOKEN) or None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise GenrecError(f"{path}: cannot be read ({error}); give a file that holds the token alone") from error
    if not token or not token.isascii() or any(letter.isspace() for letter in token):
        raise GenrecError(f"{path}: no token in it; write one line of ASCII letters without spaces")
    if path.stat().st_mode & 0o077:
        print(f"genrec: warning: {path} can be read by others; chmod 600 it", file=sys.stderr)
    return token
