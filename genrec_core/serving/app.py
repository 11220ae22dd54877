"""The server's routes: predictions, the model and its reload, health, metrics and docs.

A new route is a method of :class:`Server` and a line in :func:`_add_routes`.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genrec_core.errors import GenrecError
from genrec_core.serving.batcher import Batcher, Task
from genrec_core.serving.decoders import Answer
from genrec_core.serving.docs_page import HEADERS, docs_page
from genrec_core.serving.metrics import Metrics
from genrec_core.serving.models import ModelHolder, ServedModel
from genrec_core.serving.request_body import RETRY, RefusedError, body_schema, parse
from genrec_core.settings import ServingSettings

LOG = logging.getLogger("genrec.serving")
_LOOPBACK = ("127.0.0.1", "::1")
_ERROR_CODES = {404: "not_found", 405: "method_not_allowed"}
_CLIENT_CLOSED = 499  # the client is gone and reads no answer; the status is for the metrics
_LARGE_BODY = 64 << 10  # bytes; a larger body is parsed in a thread, so that other requests need not wait
_NOT_COUNTED = ("/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json")


class Server:
    """The routes, and what they share; clients must send ``token`` where it is not None."""

    def __init__(self, holder: ModelHolder, settings: ServingSettings, metrics: Metrics, token: str | None) -> None:
        self.holder, self.settings, self.metrics, self.token = holder, settings, metrics, token
        self.batcher = Batcher(settings, holder.threads, metrics, holder.follow)
        self.stopping = False

    async def predict(self, request: Request) -> Response:
        """``POST /predictions/<name>``."""
        self._authorize(request)
        self._model()
        body = await self._body(request)
        large = len(body) > _LARGE_BODY
        with self.holder.lease() as model:
            content = (body, self.settings, model.text_ids)
            wanted = await asyncio.to_thread(parse, *content) if large else parse(*content)
            histories = [instance.item_ids for instance in wanted.instances]
            answers = await self.batcher.decode(Task(wanted.options(), model), histories)
        predictions = [
            _prediction(instance.user_id, answer, wanted.topk)
            for instance, answer in zip(wanted.instances, answers, strict=True)
        ]
        warnings = answers[0].warnings
        return JSONResponse({"predictions": predictions, **({"warnings": warnings} if warnings else {})})

    async def reload(self, request: Request) -> Response:
        """``POST /admin/reload``."""
        self._authorize(request)
        if self.token is None and (request.client is None or request.client.host not in _LOOPBACK):
            raise RefusedError(403, "loopback_only", "without a token only this machine itself may reload")
        try:
            changed = await asyncio.to_thread(self.holder.load)
        except GenrecError as error:
            raise RefusedError(409, "reload_failed", f"{error}; the model before goes on serving") from error
        return JSONResponse({"changed": changed, **self._facts()})

    async def model(self, request: Request) -> Response:
        """``GET /model``."""
        self._authorize(request)
        return JSONResponse(self._facts())

    async def live(self) -> Response:
        """``GET /health/live``."""
        return JSONResponse({"status": "live"})

    async def ready(self) -> Response:
        """``GET /health/ready``: not while every decoding process is lost, because predictions would wait for one."""
        if self._model().lost:
            message = "every decoding process ended, and others are being started; the log says why"
            raise RefusedError(503, "decoder_lost", message, headers=RETRY)
        return JSONResponse({"status": "ready"})

    async def figures(self) -> Response:
        """``GET /metrics``."""
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def docs(self, request: Request) -> Response:
        """``GET /docs``. FastAPI's own page fetches a script from another host."""
        return HTMLResponse(docs_page(request.app.openapi(), str(request.base_url)), headers=HEADERS)

    async def close(self) -> None:
        """Finish the batches that are being decoded, then end the decoding processes."""
        self.stopping = True
        await self.batcher.close()
        await asyncio.to_thread(self.holder.close)

    def _authorize(self, request: Request) -> None:
        """Refuse a client without the token."""
        if self.token is None:
            return
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not shown:
            headers = {"WWW-Authenticate": "Bearer"}
            raise RefusedError(401, "no_token", "send the header Authorization: Bearer TOKEN", headers=headers)
        if not hmac.compare_digest(shown.strip().encode(), self.token.encode()):
            raise RefusedError(403, "wrong_token", "the token is not this server's")

    async def _body(self, request: Request) -> bytes:
        """Read the request's body, and refuse it as soon as it is too large or too slow."""
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            raise RefusedError(415, "content_encoding", "compressed bodies are not read; send the JSON as it is")
        limits, body, close = self.settings, bytearray(), {"Connection": "close"}
        try:
            async with asyncio.timeout(limits.body_seconds):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limits.max_body_kb * 1024:
                        message = f"the body is larger than {limits.max_body_kb} KiB; send fewer users at once"
                        raise RefusedError(413, "body_too_large", message, headers=close)
        except TimeoutError as error:
            message = f"the body was not complete after {limits.body_seconds} s"
            raise RefusedError(408, "body_timeout", message, headers=close) from error
        return bytes(body)

    def _model(self) -> ServedModel:
        """The model that serves now."""
        if self.stopping:
            raise RefusedError(503, "not_ready", "the server is stopping", headers=RETRY)
        if self.holder.current is None:
            raise RefusedError(503, "not_ready", "the model is not loaded yet", headers=RETRY)
        return self.holder.current

    def _facts(self) -> dict[str, Any]:
        model = self._model()
        return {
            "name": self.settings.name,
            "version": model.version,
            **model.facts,
            "loaded_at": round(model.loaded_at, 3),
            "load_seconds": round(model.load_seconds, 3),
            "last_failure": self.holder.failure,
        }


def _prediction(user_id: str | int, answer: Answer, topk: int) -> dict[str, Any]:
    """One user's items, and what the client should know about them."""
    content: dict[str, Any] = {"user_id": user_id, "predictions": answer.items}
    if len(answer.items) < topk:
        content["note"] = f"{len(answer.items)} of {topk}: no more items may be recommended"
    if answer.popular:
        content["popular"] = True
    if answer.unknown:
        content["unknown_items"] = answer.unknown
    return content


def build_app(server: Server) -> FastAPI:
    """The application: routes, errors as JSON, and figures of every request."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await server.close()

    description = "Generative retrieval recommender."
    app = FastAPI(title="genrec", description=description, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(_Measure, metrics=server.metrics)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(HTTPException, _not_routed)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    _add_routes(app, server)
    return app


def _add_routes(app: FastAPI, server: Server) -> None:
    get, post, predictions = ["GET"], ["POST"], f"/predictions/{server.settings.name}"
    app.add_route(predictions, server.predict, post)  # answers; FastAPI's own route would cost each request more
    app.add_api_route(
        predictions,  # never reached, because the first route with a path answers; it describes the path for /docs
        server.predict,
        methods=post,
        summary="Recommend items to users",
        openapi_extra={"requestBody": body_schema()},
    )
    reloads = "Open the model folder again if it changed"
    app.add_api_route("/admin/reload", server.reload, methods=post, summary=reloads)
    app.add_api_route("/model", server.model, methods=get, summary="The model that serves")
    app.add_api_route("/metrics", server.figures, methods=get, summary="Figures for Prometheus")
    app.add_api_route("/docs", server.docs, methods=get, include_in_schema=False)
    ready = "The model is loaded and warm, a process decodes, and the server is not stopping"
    for path, answer, summary in (
        ("/health/live", server.live, "The process answers"),
        ("/health/ready", server.ready, ready),
    ):
        app.add_api_route(path, answer, methods=get, summary=summary)
        app.add_api_route(path, answer, methods=["HEAD"], include_in_schema=False)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return JSONResponse(error.content(), error.status, error.headers)


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, message = _ERROR_CODES.get(error.status_code, "http_error"), f"{request.method} {request.url.path}"
    refused = RefusedError(error.status_code, code, f"{message}: {error.detail}")
    return JSONResponse(refused.content(), error.status_code, error.headers)


async def _client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=_CLIENT_CLOSED)


class _Measure:
    """Counts and times all requests but those to probes, and answers 500 where a route fails."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
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
        if scope["path"] not in _NOT_COUNTED:
            self.metrics.answered(status, time.perf_counter() - began)
