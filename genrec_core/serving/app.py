"""The server's routes: predictions, items, the model and its changes, health, metrics, docs and the demo page.

A new route is a method of :class:`Server` and a line in :func:`_add_routes`.
"""

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from genrec_core.data.ids import AnyId
from genrec_core.errors import GenrecError
from genrec_core.serving.batcher import Batcher, Task
from genrec_core.serving.decoders import Answer
from genrec_core.serving.demo_page import PageFile, page_files
from genrec_core.serving.docs_page import HEADERS, docs_page
from genrec_core.serving.measuring import MeasuredApp
from genrec_core.serving.metrics import Metrics
from genrec_core.serving.models import ModelHolder, ServedModel
from genrec_core.serving.request_body import (
    RETRY,
    PredictionRequest,
    RefusedError,
    parse,
    parse_addition,
    parse_items_query,
    parse_similar,
    parse_withdrawal,
)
from genrec_core.serving.route_schemas import addition_body, items_query, prediction_body, similar_body, withdrawal_body
from genrec_core.settings import ServingSettings

LOG = logging.getLogger("genrec.serving")
_LOOPBACK = ("127.0.0.1", "::1")
_ERROR_CODES = {404: "not_found", 405: "method_not_allowed"}
_CLIENT_CLOSED = 499  # the client is gone and reads no answer; the status is for the metrics
_LARGE_BODY = 64 << 10  # bytes; a larger body is parsed in a thread, so that other requests need not wait
_NOT_COUNTED = ("/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json")
_NOT_STORED = {"Cache-Control": "no-store"}
_PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-real-ip")


class Server:
    """The routes, and what they share; clients must send ``token`` where it is not None."""

    def __init__(self, holder: ModelHolder, settings: ServingSettings, metrics: Metrics, token: str | None) -> None:
        self.holder, self.settings, self.metrics, self.token = holder, settings, metrics, token
        self.batcher = Batcher(settings, holder.threads, metrics, holder.follow)
        self.page_files = page_files(settings.path_prefix) if settings.page else dict[str, PageFile]()
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
            options = wanted.options(self.settings.max_explained)
            answers = await self.batcher.decode(Task(options, model), histories)
        predictions = [
            _prediction(instance.user_id, answer, wanted)
            for instance, answer in zip(wanted.instances, answers, strict=True)
        ]
        warnings = answers[0].warnings
        return JSONResponse({"predictions": predictions, **({"warnings": warnings} if warnings else {})})

    async def similar(self, request: Request) -> Response:
        """``POST /similar/<name>``."""
        self._authorize(request)
        self._model()
        body = await self._body(request)
        with self.holder.lease() as model:
            wanted = parse_similar(body, self.settings, model.text_ids)
            answer = await self._look_up(model, wanted.options(), wanted.item_ids)
        return JSONResponse({"predictions": answer.items, **(answer.details or {})})

    async def items(self, request: Request) -> Response:
        """``GET /items``."""
        self._authorize(request)
        self._model()
        with self.holder.lease() as model:
            query, ids = parse_items_query(request.query_params.multi_items(), self.settings, model.text_ids)
            options = {"lookup": "describe" if ids else "find", "query": query.query, "topk": query.topk}
            answer = await self._look_up(model, json.dumps(options), ids)
        return JSONResponse(answer.details, headers=_NOT_STORED)

    async def example(self, request: Request) -> Response:
        """``GET /history/example``."""
        self._authorize(request)
        self._model()
        with self.holder.lease() as model:
            try:
                answer = await self._look_up(model, json.dumps({"lookup": "example"}), [])
            except RefusedError as error:
                error.status = 404 if error.code == "no_examples" else error.status
                raise
        return JSONResponse(answer.details, headers=_NOT_STORED)

    async def reload(self, request: Request) -> Response:
        """``POST /admin/reload``."""
        self._authorize_change(request)
        return JSONResponse({"changed": await self._load("the model before goes on serving"), **self._facts()})

    async def withdraw(self, request: Request) -> Response:
        """``POST /admin/withdraw``."""
        self._authorize_change(request)
        wanted = parse_withdrawal(await self._body(request), self.settings, self._model().text_ids)
        try:
            done = await asyncio.to_thread(self.holder.withdraw, wanted.item_ids, wanted.restore)
        except GenrecError as error:
            raise RefusedError(409, "not_withdrawn", str(error), "item_ids") from error
        await self._load("the list of withdrawn items is changed, but the model before goes on serving")
        counts = {"changed": done.changed, "withdrawn": done.withdrawn, "left": done.left}
        return JSONResponse({**counts, "version": self._model().version})

    async def add_items(self, request: Request) -> Response:
        """``POST /admin/add-items``."""
        self._authorize_change(request)
        self._model()
        wanted = parse_addition(await self._body(request))
        try:
            await asyncio.to_thread(self.holder.add, wanted.items)
        except GenrecError as error:
            raise RefusedError(409, "not_added", str(error), "items") from error
        await self._load("the items are added, but the model before goes on serving")
        return JSONResponse({"added": len(wanted.items), "version": self._model().version})

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

    async def page(self, request: Request) -> Response:
        """``GET /`` and the files of the demo page. They hold nothing of the model, so they need no token."""
        return self.page_files[request.url.path.removeprefix(self.settings.path_prefix)].response()

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

    def _authorize_change(self, request: Request) -> None:
        """Refuse a client that may not change what is served.

        Without a token only a program on this machine may. A browser there sends ``Origin`` for a page of any site, and
        a proxy there speaks for anyone.
        """
        self._authorize(request)
        if self.token is not None:
            return
        here = request.client is not None and request.client.host in _LOOPBACK
        if not here or any(name in request.headers for name in ("origin", *_PROXY_HEADERS)):
            message = "without a token only a program on this machine may do this, not through a browser or a proxy"
            raise RefusedError(403, "loopback_only", message)

    async def _look_up(self, model: ServedModel, options: str, items: list[AnyId]) -> Answer:
        (answer,) = await self.batcher.decode(Task(options, model, lookup=True), [items])
        return answer

    async def _load(self, otherwise: str) -> bool:
        try:
            return await asyncio.to_thread(self.holder.load)
        except GenrecError as error:
            raise RefusedError(409, "reload_failed", f"{error}; {otherwise}") from error

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
            "release": model.release_version,
            **model.facts,
            "loaded_at": round(model.loaded_at, 3),
            "load_seconds": round(model.load_seconds, 3),
            "last_failure": self.holder.failure,
        }


def _prediction(user_id: str | int, answer: Answer, wanted: PredictionRequest[Any]) -> dict[str, Any]:
    """One user's items, and what the client should know about them."""
    content: dict[str, Any] = {"user_id": user_id, "predictions": answer.items}
    if len(answer.items) < wanted.topk:
        content["note"] = f"{len(answer.items)} of {wanted.topk}: no more items may be recommended"
    if answer.popular:
        content |= {"popular": True} if wanted.fallback == "popular" else {"fallback": wanted.fallback}
    if answer.unknown:
        content["unknown_items"] = answer.unknown
    if answer.details:
        content |= answer.details
    return content


def build_app(server: Server) -> FastAPI:
    """The application: routes, errors as JSON, and figures of every request."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await server.close()

    description, prefix = "Generative retrieval recommender.", server.settings.path_prefix
    app = FastAPI(
        title="genrec", description=description, lifespan=lifespan, docs_url=None, redoc_url=None,
        servers=[{"url": prefix}] if prefix else None, root_path_in_servers=False,
    )  # fmt: skip
    not_counted = (*_NOT_COUNTED, *server.page_files)
    app.add_middleware(MeasuredApp, metrics=server.metrics, not_counted=not_counted, prefix=prefix)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(HTTPException, _not_routed)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    _add_model_routes(app, server)
    _add_other_routes(app, server)
    return app


def _add_model_routes(app: FastAPI, server: Server) -> None:
    """What the decoding processes answer, and what changes them."""
    get, post, name = ["GET"], ["POST"], server.settings.name
    predictions = f"/predictions/{name}"
    app.add_route(predictions, server.predict, post)  # answers; FastAPI's own route would cost each request more
    for path, answer, methods, summary, about in (
        # Never reached, because the first route with a path answers; it describes the path for /docs.
        (predictions, server.predict, post, "Recommend items to users", prediction_body()),
        (f"/similar/{name}", server.similar, post, "Find items like some items", similar_body()),
        ("/items", server.items, get, "Search items by title or id, or describe some", items_query()),
        ("/history/example", server.example, get, "An example history, drawn anew each time", None),
        ("/model", server.model, get, "The model that serves", None),
        ("/admin/reload", server.reload, post, "Open the model folder again if it changed", None),
        ("/admin/add-items", server.add_items, post, "Add items to the model", addition_body()),
        ("/admin/withdraw", server.withdraw, post, "Withdraw items, or restore them", withdrawal_body()),
    ):
        app.add_api_route(path, answer, methods=methods, summary=summary, openapi_extra=about)


def _add_other_routes(app: FastAPI, server: Server) -> None:
    """Health, metrics and pages."""
    get = ["GET"]
    app.add_api_route("/metrics", server.figures, methods=get, summary="Figures for Prometheus")
    app.add_api_route("/docs", server.docs, methods=get, include_in_schema=False)
    for path in server.page_files:
        app.add_route(path, server.page, get)
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
