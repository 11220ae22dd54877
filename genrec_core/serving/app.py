"""The server's routes: predictions, health, metrics, the model and its reload."""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from genrec_core.errors import GenrecError
from genrec_core.serving.batcher import Batcher, Task
from genrec_core.serving.decoders import Answer
from genrec_core.serving.docs_page import HEADERS, docs_page
from genrec_core.serving.metrics import Metrics
from genrec_core.serving.models import ModelHolder, ServedModel
from genrec_core.serving.request_body import RETRY, PredictionRequest, RefusedError, parse
from genrec_core.settings import ServingSettings

LOG = logging.getLogger("genrec.serving")
_LOOPBACK = ("127.0.0.1", "::1")
_CODES = {404: "not_found", 405: "method_not_allowed"}
_CLIENT_CLOSED = 499  # nobody reads this answer; the status is for the metrics
_LARGE_BODY = 64 << 10  # bytes; parsing more takes long enough to keep the event loop from others
_EXAMPLE = {"topk": 4, "instances": [{"user_id": "1", "item_ids": [1, 2, 3, 4]}]}

Handler = Callable[[Request], Awaitable[Response]]


class Server:
    """What the routes share.

    Args:
        holder: the model.
        settings: limits.
        metrics: figures.
        token: what clients must show; None lets everyone in.
    """

    def __init__(self, holder: ModelHolder, settings: ServingSettings, metrics: Metrics, token: str | None) -> None:
        self.holder, self.settings, self.metrics, self.token = holder, settings, metrics, token
        self.batcher = Batcher(settings, holder.threads, metrics, holder.follow)
        self.stopping = False

    async def predict(self, request: Request) -> Response:
        """``POST /predictions/<name>``."""
        self.authorize(request)
        self.model()
        body = await self.body(request)
        large = len(body) > _LARGE_BODY
        asked = await asyncio.to_thread(parse, body, self.settings) if large else parse(body, self.settings)
        with self.holder.lease() as model:
            histories = [instance.item_ids for instance in asked.instances]
            answers = await self.batcher.decode(Task(asked.options(), model or self.model()), histories)
        content: dict[str, Any] = {
            "predictions": [
                _prediction(instance.user_id, answer, asked.topk)
                for instance, answer in zip(asked.instances, answers, strict=True)
            ]
        }
        if answers[0].warnings:
            content["warnings"] = answers[0].warnings
        return JSONResponse(content)

    def authorize(self, request: Request) -> None:
        """Refuse a client without the token."""
        if self.token is None:
            return
        kind, _, shown = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not shown:
            headers = {"WWW-Authenticate": "Bearer"}
            raise RefusedError(401, "no_token", "send the header Authorization: Bearer TOKEN", headers=headers)
        if not hmac.compare_digest(shown.strip().encode(), self.token.encode()):
            raise RefusedError(403, "wrong_token", "the token is not this server's")

    async def body(self, request: Request) -> bytes:
        """The request's body, given up as soon as it is too large."""
        coding = request.headers.get("content-encoding", "identity").strip().lower()
        if coding != "identity":
            raise RefusedError(415, "content_encoding", "compressed bodies are not read; send the JSON as it is")
        most, read = self.settings.max_body_kb * 1024, bytearray()
        declared = request.headers.get("content-length", "0")
        if not declared.isascii() or not declared.isdigit() or int(declared) > most:
            raise self._too_large()
        try:
            async with asyncio.timeout(self.settings.body_seconds):
                async for chunk in request.stream():
                    read += chunk
                    if len(read) > most:
                        raise self._too_large()
        except TimeoutError as error:
            reason = f"the body was not here after {self.settings.body_seconds} s"
            raise RefusedError(408, "body_timeout", reason, headers={"Connection": "close"}) from error
        return bytes(read)

    def _too_large(self) -> RefusedError:
        message = f"the body is larger than {self.settings.max_body_kb} KiB; send fewer users at once"
        return RefusedError(413, "body_too_large", message, headers={"Connection": "close"})

    def model(self) -> ServedModel:
        """The model that serves now."""
        model = self.holder.current
        if model is None or self.stopping:
            message = "the server is stopping" if self.stopping else "the model is not loaded yet"
            raise RefusedError(503, "not_ready", message, headers=RETRY)
        return model

    def require_decoders(self) -> None:
        """Refuse where nobody decodes; a prediction would wait for a process that is being started."""
        if self.model().lost:
            message = "every decoding process ended, and others are being started; the log says why"
            raise RefusedError(503, "decoder_lost", message, headers=RETRY)

    async def reload(self, request: Request) -> Response:
        """``POST /admin/reload``: open the model folder again if it changed."""
        self.authorize(request)
        if self.token is None and (request.client is None or request.client.host not in _LOOPBACK):
            raise RefusedError(403, "loopback_only", "without a token only this machine itself may reload")
        try:
            changed = await asyncio.to_thread(self.holder.load)
        except GenrecError as error:
            raise RefusedError(409, "reload_failed", f"{error}; the model before goes on serving") from error
        return JSONResponse({"changed": changed, **self.facts()})

    def facts(self) -> dict[str, Any]:
        """What serves."""
        model = self.model()
        return {
            "name": self.settings.name,
            "version": model.version,
            **model.facts,
            "loaded_at": round(model.loaded_at, 3),
            "load_seconds": round(model.load_seconds, 3),
            "last_failure": self.holder.failure,
        }

    async def close(self) -> None:
        """Answer what is being decoded, then end the decoding processes."""
        self.stopping = True
        await self.batcher.close()
        await asyncio.to_thread(self.holder.close)


def _prediction(user_id: str | int, answer: Answer, topk: int) -> dict[str, Any]:
    """One user's items, and what the client should know about them."""
    content: dict[str, Any] = {"user_id": user_id, "predictions": answer.items}
    if len(answer.items) < topk:
        content["note"] = f"{len(answer.items)} of {topk}: no more items are allowed and unseen"
    if answer.popular:
        content["popular"] = True
    if answer.unknown:
        content["unknown_items"] = answer.unknown
    return content


def build_app(server: Server) -> FastAPI:
    """The application: routes, errors as JSON, figures of every request."""
    schema = _inline(PredictionRequest.model_json_schema())
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": _EXAMPLE}}}}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await server.close()

    about = "Generative retrieval recommender."
    app = FastAPI(title="genrec", description=about, lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.post(f"/predictions/{server.settings.name}", openapi_extra=body, summary="Recommend items to users")
    async def predictions(request: Request) -> Response:
        return await _measured(server, request, server.predict)

    @app.post("/admin/reload", summary="Open the model folder again if it changed")
    async def reload(request: Request) -> Response:
        return await _measured(server, request, server.reload)

    @app.get("/model", summary="The model that serves")
    async def model(request: Request) -> Response:
        async def facts(request: Request) -> Response:
            server.authorize(request)
            return JSONResponse(server.facts())

        return await _measured(server, request, facts)

    _add_probes(app, server)
    _add_docs(app)
    _add_errors(app, server)
    return app


def _add_probes(app: FastAPI, server: Server) -> None:
    """What service managers and Prometheus ask, without a token. The body of an answer to HEAD is left out later."""

    @app.head("/health/live", include_in_schema=False)
    @app.get("/health/live", summary="The process answers")
    async def live() -> Response:
        return JSONResponse({"status": "live"})

    @app.head("/health/ready", include_in_schema=False)
    @app.get("/health/ready", summary="The model is loaded and warm, a process decodes, and the server is not stopping")
    async def ready() -> Response:
        try:
            server.require_decoders()
        except RefusedError as error:
            return JSONResponse(error.content(), error.status, error.headers)
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", summary="Figures for Prometheus")
    async def metrics() -> Response:
        return Response(generate_latest(server.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_docs(app: FastAPI) -> None:
    """FastAPI's own page fetches a script from another host."""

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return Response(docs_page(app.openapi(), str(request.base_url)), headers=HEADERS, media_type="text/html")


def _add_errors(app: FastAPI, server: Server) -> None:
    """Answers of our own form where no route is reached, or one of the probes fails."""

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        server.metrics.answered(error.status_code)
        code = _CODES.get(error.status_code, "http_error")
        refused = RefusedError(error.status_code, code, f"{request.method} {request.url.path}: {error.detail}")
        return JSONResponse(refused.content(), refused.status, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def failure(request: Request, error: Exception) -> Response:  # starlette raises it again: uvicorn logs it
        server.metrics.answered(500)
        return _failure()


async def _measured(server: Server, request: Request, handle: Handler) -> Response:
    """Answer with an error of our own form where ``handle`` fails, and note status and time."""
    began = time.perf_counter()
    try:
        response = await handle(request)
    except RefusedError as error:
        response = JSONResponse(error.content(), error.status, error.headers)
    except ClientDisconnect:
        response = Response(status_code=_CLIENT_CLOSED)
    except Exception:  # a fault of ours: the log gets it whole, the client a 500 without a stack trace
        LOG.exception("%s %s failed", request.method, request.url.path)
        response = _failure()
    server.metrics.answered(response.status_code)
    server.metrics.seconds.observe(time.perf_counter() - began)
    return response


def _failure() -> Response:
    return JSONResponse(RefusedError(500, "internal", "the server failed; its log says why").content(), 500)


def _inline(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema whose references are replaced by what they name."""
    definitions = schema.get("$defs", {})

    def resolved(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return resolved(definitions[value["$ref"].rsplit("/", 1)[-1]])
            return {key: resolved(inner) for key, inner in value.items() if key != "$defs"}
        return [resolved(inner) for inner in value] if isinstance(value, list) else value

    inlined: dict[str, Any] = resolved(schema)
    return inlined
