"""Runs the server: it opens the model, listens, reloads on SIGHUP, and on SIGTERM finishes the requests and ends."""

import asyncio
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path

import uvicorn

from genrec_core.errors import GenrecError
from genrec_core.releases.pointer import release_in
from genrec_core.serving.app import Server, build_app
from genrec_core.serving.decoders import kill_all
from genrec_core.serving.metrics import Metrics
from genrec_core.serving.models import ModelHolder, ServedModel
from genrec_core.settings import ServingSettings

LOG = logging.getLogger("genrec.serving")
TOKEN = "GENREC_TOKEN"
_STARTED_POLL_SECONDS = 0.01
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(model_dir: Path | None, settings: ServingSettings, token: str | None) -> None:
    """Serve until SIGTERM or SIGINT. The server listens at once, and is ready when the model is.

    Args:
        model_dir: see :func:`genrec_core.releases.pointer.release_in`.
        settings: where to listen, and limits.
        token: clients must send it as ``Authorization: Bearer``; None for no token.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    release_in(model_dir)
    if token is None and settings.host not in _LOOPBACK:
        LOG.warning("listening on %s without a token: every client that reaches the port is served", settings.host)
    metrics = Metrics()
    holder = ModelHolder(model_dir, settings.threads, metrics, partial(ServedModel, open_seconds=settings.open_seconds))
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
    try:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:  # uvloop where it is installed
            runner.run(_run(uvicorn.Server(config), holder))
    finally:
        kill_all()


async def _run(server: uvicorn.Server, holder: ModelHolder) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # uvicorn catches them, and raises them again when it has stopped
    if hasattr(signal, "SIGHUP"):  # Windows has none
        loop.add_signal_handler(signal.SIGHUP, loop.run_in_executor, None, _reload, holder)
    first = loop.create_task(_first_load(server, holder))
    try:
        await server.serve()
    except SystemExit as error:  # uvicorn's way to say that it cannot listen
        raise GenrecError(
            f"cannot listen on {server.config.host} port {server.config.port}; see above, or choose another --port"
        ) from error
    await first


async def _first_load(server: uvicorn.Server, holder: ModelHolder) -> None:
    """Open the model, and say when the server is ready; end the server where the model cannot be opened."""
    try:
        await asyncio.to_thread(holder.load)
    except GenrecError:
        server.should_exit = True
        raise
    while not server.started and not server.should_exit:  # uvicorn has no event for it
        await asyncio.sleep(_STARTED_POLL_SECONDS)
    if server.started and holder.current:
        LOG.info("ready: model %s, opened in %.2f s", holder.current.version, holder.current.load_seconds)


def _reload(holder: ModelHolder) -> None:
    try:
        changed = holder.load()
    except GenrecError as error:
        LOG.error("reload failed, the model before goes on serving: %s", error)
        return
    LOG.info("reload: %s", f"version {holder.current.version}" if changed and holder.current else "unchanged")


def read_token(path: Path | None) -> str | None:
    """The token of ``--token_file``, else of the environment."""
    if path is None:
        return _checked(os.environ[TOKEN].strip(), TOKEN) if TOKEN in os.environ else None
    try:
        token = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise GenrecError(f"{path}: cannot be read ({error}); give a file that holds the token alone") from error
    if os.name == "posix" and path.stat().st_mode & 0o077:
        print(f"genrec: warning: other users can read {path}; chmod 600 it", file=sys.stderr)
    return _checked(token, str(path))


def _checked(token: str, source: str) -> str:
    """Refuse an empty token: a server that should have one must not be open to everyone."""
    if not token or not token.isascii() or any(letter.isspace() for letter in token):
        raise GenrecError(f"{source}: no token in it; write one line of ASCII letters without spaces")
    return token
