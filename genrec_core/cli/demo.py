"""``genrec demo``: the sample shop, a model of it, and the page to try it on."""

import argparse
import socket
import sys
import threading
import time
import webbrowser
from http.client import HTTPConnection
from pathlib import Path

from genrec_core.cli.options import Commands, add_command, new_folder
from genrec_core.errors import GenrecError
from genrec_core.settings import ServingSettings

_HOST, _POLL_SECONDS = "127.0.0.1", 0.2
# The preset "sample", measured on fewer users, so that the first start is soon over.
_SETTINGS = {"evaluation": {"users": 1000, "exact_users": 0}}


def add_commands(commands: Commands) -> None:
    """Add ``demo``."""
    about = "Train a model of a synthetic shop, a few minutes the first time, and open the page to try it on."
    command = add_command(commands, "demo", _demo, about)
    command.add_argument(
        "--folder", type=new_folder, default=Path(".genrec/demo"), metavar="DIR", help="where it is kept (%(default)s)"
    )
    command.add_argument("--port", type=int, default=8080, metavar="N", help="port of the page (%(default)s)")
    command.add_argument("--no_browser", action="store_true", help="print the page's address only")


def _demo(options: argparse.Namespace) -> None:
    from genrec_core.serving.process import serve  # first: without the extra "serve" nothing is trained

    _require_free(options.port)
    model = _trained(options.folder)
    threading.Thread(target=_open_page, args=(options.port, not options.no_browser), daemon=True).start()
    serve(model, ServingSettings(host=_HOST, port=options.port), token=None)


def _trained(folder: Path) -> Path:
    """The model in ``folder``, which is trained if there is none; a training that was cut off goes on."""
    from genrec_core.releases.pointer import release_in
    from genrec_core.storage.folders import LATEST

    export = folder.absolute() / "onnx_encoder"
    if not (export / LATEST).is_file():
        from genrec_core.fitting import fit

        fit(None, preset="sample", folder=folder, settings=_SETTINGS, on_progress=_say)
    return release_in(export)


def _require_free(port: int) -> None:
    if not 1 <= port <= 65535:
        raise GenrecError(f"--port {port}: name one from 1 to 65535")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            listener.bind((_HOST, port))
        except OSError as error:
            raise GenrecError(f"--port {port}: is in use ({error.strerror}); name another") from error


def _open_page(port: int, browser: bool) -> None:
    """Wait until the server is ready, then show the page's address and open it."""
    while not _is_ready(port):
        time.sleep(_POLL_SECONDS)
    address = f"http://{_HOST}:{port}/"
    _say(f"open {address} in a browser; Ctrl+C ends the demo")
    if browser:
        webbrowser.open(address)


def _is_ready(port: int) -> bool:
    connection = HTTPConnection(_HOST, port, timeout=1)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
