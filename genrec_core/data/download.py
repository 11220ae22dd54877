"""Fetches an archive by http(s): whole, no larger than a disk can hold, and without showing the password to anybody."""

import base64
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from genrec_core.errors import GenrecError
from genrec_core.storage.redact import without_secrets

_LARGEST_DOWNLOAD = 8 << 30  # bytes
_BLOCK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60
_VALIDATORS = ("ETag", "Last-Modified", "Content-Length")


class _SameProtocol(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http(s) only, and from https to https only."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme != "https"):
            raise urllib.error.URLError(f"it points on to {scheme}://, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def is_url(source: str) -> bool:
    """Whether ``source`` is an http(s) address."""
    return source.startswith(("http://", "https://"))


def download(url: str, target: Path) -> None:
    """Fetch ``url``, http(s), to the file ``target``; ``user:password@`` in it is sent to that server alone."""
    with _response(url, "GET", "cannot be downloaded") as response, target.open("wb") as file:
        length = response.headers.get("Content-Length")
        arrived = 0
        while block := response.read(_BLOCK_BYTES):
            arrived += len(block)
            if arrived > _LARGEST_DOWNLOAD:
                raise GenrecError(f"{_shown(url)}: more than {_LARGEST_DOWNLOAD} bytes; get it by hand")
            file.write(block)
    if length is not None and arrived != int(length):
        raise GenrecError(f"{_shown(url)}: {arrived} of {length} bytes arrived; try again")


def server_state(url: str) -> list[object]:
    """The headers that change with the content; an error if the server sends none of them."""
    with _response(url, "HEAD", "the server does not answer") as response:
        state: list[object] = [response.headers.get(name) for name in _VALIDATORS]
    if not any(state):
        raise GenrecError(
            f"{_shown(url)}: the server sends none of {', '.join(_VALIDATORS)}, so a change of the archive cannot be "
            "seen; run `make run` when it has changed"
        )
    return state


@contextmanager
def _response(url: str, method: str, fault: str) -> Iterator[http.client.HTTPResponse]:
    """Ask for ``url``; user and password go in a header that is not sent on to where the server points."""
    try:
        parts = urlsplit(url)
        user, at, place = parts.netloc.rpartition("@")
        request = urllib.request.Request(urlunsplit(parts._replace(netloc=place)), method=method)
        if at:
            token = base64.b64encode(unquote(user).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {token}")
        with urllib.request.build_opener(_SameProtocol).open(request, timeout=_TIMEOUT_SECONDS) as response:
            yield response
    except GenrecError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = without_secrets(str(error))
        # Not chained: the library's own text may hold the address with its password.
        raise GenrecError(f"{_shown(url)}: {fault} ({reason}); check the address or use a folder") from None


def _shown(url: str) -> str:
    return f"GENREC_RAW={without_secrets(url)}"
