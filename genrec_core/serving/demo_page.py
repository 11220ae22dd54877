"""The demo page at ``/``: its files, and the headers that keep a browser from anything but this server."""

import html
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import Response

_FOLDER = Path(__file__).parent / "page"
_INDEX, _PREFIX = "index.html", "{{ prefix }}"  # an empty one leaves links relative
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class PageFile:
    """A file as it is sent."""

    content: str
    media_type: str

    def response(self) -> Response:
        """The file with its headers."""
        return Response(self.content, media_type=self.media_type, headers=_HEADERS)


def page_files(prefix: str = "") -> dict[str, PageFile]:
    """The files by their path on the server.

    Args:
        prefix: path of the server in the browser; the page's links begin with it.
    """
    files = {path.name: path.read_text(encoding="utf-8") for path in _FOLDER.iterdir() if path.suffix in _TYPES}
    files[_INDEX] = files[_INDEX].replace(_PREFIX, html.escape(f"{prefix}/" if prefix else ""))
    sent = {name: PageFile(content, _TYPES[Path(name).suffix]) for name, content in files.items()}
    return {"/" if name == _INDEX else f"/page/{name}": file for name, file in sent.items()}
