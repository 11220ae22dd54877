"""Counts and times requests, and answers where a route fails."""

import logging
import time
from collections.abc import Sequence

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genrec_core.serving.metrics import Metrics
from genrec_core.serving.request_body import RefusedError

LOG = logging.getLogger("genrec.serving")


class MeasuredApp:
    """Counts and times all requests but some, and answers 500 where a route fails.

    Args:
        not_counted: paths of probes and pages.
        prefix: the server's path in the browser, which a proxy may leave in front of each path or take away.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, not_counted: Sequence[str] = (), prefix: str = "") -> None:
        self.app, self.metrics, self.prefix = app, metrics, prefix
        self.not_counted = frozenset(start + path for path in not_counted for start in ("", prefix))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.prefix:
            scope["root_path"] = self.prefix  # routes then match without it, and links begin with it
        began, status = time.perf_counter(), 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except Exception:  # a fault of ours: the log gets the trace, the client does not
            LOG.exception("%s %s failed", scope["method"], scope["path"])
            failure = RefusedError(500, "internal", "the server failed; its log says why")
            await JSONResponse(failure.content(), 500)(scope, receive, send)
        if scope["path"] not in self.not_counted:
            self.metrics.answered(status, time.perf_counter() - began)
