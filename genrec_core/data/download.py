"""Fetches an archive by http(s): no more than a disk can hold, to the end, and without telling anybody the password."""

import base64
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit, urlunsplit

from genrec_core.errors import GenrecError
from genrec_core.storage.redact import without_secrets

_LARGEST_DOWNLOAD = 8 << 30  # bytes
_BLOCK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60
_VALIDATORS = ("ETag", "Last-Modified", "Content-Length")


class _SameProtocol(urllib.request.HTTPRedirectHandler):
    """Follows a server to another place, but from https to https only, and to no other protocol."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme != "https"):
            raise urllib.error.URLError(f"it points on to {scheme}://, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def is_url(source: str) -> bool:
    """Whether ``source`` is an http(s) address."""
    return source.startswith(("http://", "https://"))


def download(url: str, folder: Path) -> Path:
    """Fetch ``url`` into ``folder``; the file.

    Args:
        url: http(s); ``user:password@`` in it is sent to that server alone.
        folder: where the file goes, named as in the address.

    Raises:
        GenrecError: it cannot be fetched, ends too early, or is too large; the address is named without its secrets.
    """
    target = folder / (Path(urlsplit(url).path).name.strip(".") or "archive")
    with _answer(url, "GET", "cannot be downloaded") as response, target.open("wb") as file:
        told = response.headers.get("Content-Length")
        arrived = 0
        while block := response.read(_BLOCK_BYTES):
            arrived += len(block)
            if arrived > _LARGEST_DOWNLOAD:
                raise GenrecError(f"{_named(url)}: more than {_LARGEST_DOWNLOAD} bytes; get it by hand")
            file.write(block)
    if told is not None and arrived != int(told):
        raise GenrecError(f"{_named(url)}: {arrived} of {told} bytes arrived; try again")
    return target


def server_state(url: str) -> list[object]:
    """What the server says that would change with the content.

    Raises:
        GenrecError: it does not answer, or says nothing of the kind.
    """
    with _answer(url, "HEAD", "the server does not answer") as response:
        found: list[object] = [response.headers.get(name) for name in _VALIDATORS]
    if not any(found):
        raise GenrecError(
            f"{_named(url)}: the server sends none of {', '.join(_VALIDATORS)}, so nobody can tell "
            "whether the archive changed; run `make run` when it did"
        )
    return found


@contextmanager
def _answer(url: str, method: str, fault: str) -> Iterator[http.client.HTTPResponse]:
    opener = urllib.request.build_opener(_SameProtocol)
    try:
        with opener.open(_request(url, method), timeout=_TIMEOUT_SECONDS) as response:
            yield response
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = without_secrets(str(error))
        # Not chained: what the libraries say may hold the address as it was given.
        raise GenrecError(f"{_named(url)}: {fault} ({reason}); check the address or use a folder") from None


def _request(url: str, method: str) -> urllib.request.Request:
    """The request, with user and password as a header that is not sent on to where the server points."""
    parts = urlsplit(url)
    user, at, place = parts.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=place)), method=method)
    if at:
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(unquote(user).encode()).decode()}")
    return request


def _named(url: str) -> str:
    return f"GENREC_RAW={without_secrets(url)}"
