"""``python -m genrec_dagster.pages`` shows HTML pages and pictures of the storage, on the loopback address, PAGES_PORT.

``GET /<asset>/<version>/<file>`` is one page, ``GET /`` lists the newest ones. Dagster shows no HTML file, and MLflow
puts one into a small frame, so assets link their pages here.
"""

import base64
import html
import json
import os
import re
import signal
import struct
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from genrec_core.errors import GenrecError
from genrec_core.storage.folders import LATEST, all_assets, read_small, storage_root

if TYPE_CHECKING:
    import dagster as dg

PAGES_PORT, DEFAULT_PAGES_PORT = "PAGES_PORT", "3001"
PAGES_URL, PAGES_HOST = "GENREC_PAGES_URL", "PAGES_HOST"
# The files that are shown, and what each is.
PAGES = {
    "report.html": "the evaluation on the test items",
    "codes.html": "the semantic IDs and the items that share them",
}
# The pictures that the pages of assets show in place.
PLOTS = "plots.png"
_PICTURES = (PLOTS, "recall.png", "slices.png", "training.png")
_HOST = "127.0.0.1"
_LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}
_NAME = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"  # never a folder above, and never a hidden one
_PLACE = re.compile(rf"/({_NAME})/({_NAME})/({'|'.join(map(re.escape, (*PAGES, *_PICTURES)))})")
SMALL = "small"  # the query for a picture that fits into a table of Dagster
_SMALL_WIDTH = 400  # pixels
_HTML, _PNG, _SVG = "text/html; charset=utf-8", "image/png", "image/svg+xml"
_IDLE_SECONDS = 30
_HEADERS = {
    # A page has its script, its style and its pictures in itself; it may load nothing and send nothing.
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_INDEX = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Pages of genrec</title>
<style>:root {{ color-scheme: light dark }} body {{ font: 1rem/1.6 system-ui, sans-serif; max-width: 45rem;
margin: 3rem auto; padding: 0 1rem }} small {{ opacity: .7 }}</style></head>
<body><h1>Pages of genrec</h1>{body}</body></html>
"""


def pages_url() -> str:
    """Where the pages are: ``GENREC_PAGES_URL``, else the address at which ``make ui`` shows them."""
    named = os.environ.get(PAGES_URL)
    return named.rstrip("/") if named else f"http://{_HOST}:{os.environ.get(PAGES_PORT) or DEFAULT_PAGES_PORT}"


def page_link(folder: Path, file: str) -> "dg.MetadataValue":
    """A link to a page of an asset's version.

    Args:
        folder: the version's folder, in the storage or where it is still being made: its last two parts are the
            asset's name and the version's.
        file: the name of a page or a picture that is shown; ``ValueError`` for another.
    """
    import dagster as dg

    return dg.MetadataValue.url(page_address(folder, file))


def page_address(folder: Path, file: str) -> str:
    """The address of :func:`page_link`."""
    path = f"/{folder.parent.name}/{folder.name}/{file}"
    if not _PLACE.fullmatch(path):
        raise ValueError(f"{path} is not shown; the last part must be one of {', '.join((*PAGES, *_PICTURES))}")
    return f"{pages_url()}{path}"


def newest_pages(root: Path) -> dict[str, Path]:
    """The pages of the newest versions in a storage: what each is, and its place ``asset/version/file``."""
    pages: dict[str, Path] = {}
    for asset in [asset for asset in all_assets(root) if "/" not in asset]:
        version = newest_version(asset, root)
        pages |= {
            f"{what} ({asset})": Path(asset, version, file)
            for file, what in PAGES.items()
            if version and read_page(f"/{asset}/{version}/{file}", root) is not None
        }
    return pages


def newest_version(asset: str, root: Path) -> str | None:
    """The name that ``latest.json`` holds; nothing of the version itself is fetched from a bucket."""
    pointer: dict[str, str] = json.loads(read_small(asset, LATEST, root) or b"{}")
    return pointer.get("version")


def read_page(path: str, root: Path) -> bytes | None:
    """The content of the page at ``path``, the path of an address; None if there is no such page in the storage."""
    place = _PLACE.fullmatch(unquote(path))
    if place is None:
        return None
    asset, version, file = place.groups()
    local = (root / asset / version / file).resolve()
    if local.exists() and not local.is_relative_to(root.resolve()):
        return None
    return read_small(asset, f"{version}/{file}", root)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD with a page, the list of pages, or 404."""

    timeout = _IDLE_SECONDS
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "genrec", ""

    def do_GET(self) -> None:
        """Send headers and content."""
        self._send(*self._answer())

    def do_HEAD(self) -> None:
        """Send the headers alone."""
        self._send(*self._answer())

    def _answer(self) -> tuple[HTTPStatus, bytes, str]:
        if not _is_own_name(self.headers.get("Host", "")):  # a foreign page whose name resolves to this machine
            return HTTPStatus.FORBIDDEN, _message(f"This server answers at {pages_url()} alone."), _HTML
        path, root = urlsplit(self.path).path, storage_root()
        try:
            if path == "/":
                return HTTPStatus.OK, _index(root), _HTML
            page = read_page(path, root)
        except GenrecError as error:
            return HTTPStatus.SERVICE_UNAVAILABLE, _message(html.escape(str(error))), _HTML
        if page is None:
            return HTTPStatus.NOT_FOUND, _message('There is no such page. <a href="/">The newest pages</a>'), _HTML
        if not path.endswith(".png"):
            return HTTPStatus.OK, page, _HTML
        return (
            (HTTPStatus.OK, _small(page), _SVG) if urlsplit(self.path).query == SMALL else (HTTPStatus.OK, page, _PNG)
        )

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        # Dagster's pages, which have another address, show the pictures.
        self.send_header("Cross-Origin-Resource-Policy", "same-origin" if kind == _HTML else "cross-origin")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing: the UIs print to the same terminal."""


def _small(png: bytes) -> bytes:
    """A picture drawn small, all of its dots kept. Dagster draws a picture as wide as it is, and cuts off the rest."""
    width, height = struct.unpack(">II", png[16:24])  # of the header chunk
    drawn = f'width="{_SMALL_WIDTH}" height="{_SMALL_WIDTH * height // width}"'
    content = base64.b64encode(png).decode()
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {drawn}><image {drawn} href="data:image/png;base64,{content}"/></svg>'
    ).encode()


def _is_own_name(host: str) -> bool:
    """Whether a ``Host`` header names this machine, or the address of the deployment."""
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    return name in _LOOPBACK or host == urlsplit(pages_url()).netloc


def _index(root: Path) -> bytes:
    """The list of the newest pages."""
    pages = newest_pages(root)
    if not pages:
        return _message("No asset has a page yet. Materialise the graph in Dagster, or run <code>make run</code>.")
    entries = [
        f'<li><a href="/{html.escape(place.as_posix())}">{html.escape(name)}</a><br>'
        f"<small>version {html.escape(place.parts[1])}</small></li>"
        for name, place in pages.items()
    ]
    return _INDEX.format(body=f"<ul>{''.join(entries)}</ul>").encode()


def _message(sentence: str) -> bytes:
    return _INDEX.format(body=f"<p>{sentence}</p>").encode()


def serve(port: int, host: str = _HOST) -> ThreadingHTTPServer:
    """A server that shows the pages of :func:`storage_root`, on the loopback address by default; port 0: a free one."""
    server = ThreadingHTTPServer((host, port), _Handler)
    server.daemon_threads = True
    return server


def main() -> int:
    """Serve until a signal comes, in a container on the address ``PAGES_HOST``."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    port = int(os.environ.get(PAGES_PORT) or DEFAULT_PAGES_PORT)
    with serve(port, os.environ.get(PAGES_HOST) or _HOST) as server:
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
