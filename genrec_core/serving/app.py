"""The server's routes: predictions, health, metrics, the model and its reload."""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from genrec_core.errors import GenrecError
from genrec_core.inference.recommender import Ranking, Recommender
from genrec_core.serving.batcher import Batcher, QueueFullError, Task
from genrec_core.serving.metrics import Metrics
from genrec_core.serving.models import ModelHolder, ServedModel
from genrec_core.serving.requests import PredictionRequest, RefusedError, parse
from genrec_core.settings import ServingSettings

LOG = logging.getLogger("genrec.serving")
_LOOPBACK = ("127.0.0.1", "::1")
_CODES = {404: "not_found", 405: "method_not_allowed"}
_CLIENT_CLOSED = 499  # nobody reads this answer; the status is for the metrics

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
        self.batcher = Batcher(settings, metrics)
        self.stopping = False

    async def predict(self, request: Request) -> Response:
        """``POST /predictions/<name>``."""
        self.authorize(request)
        asked = parse(await self.body(request), self.settings)
        model = self.model()
        try:
            ranked = await self.batcher.rank(
                Task(asked.topk, asked.ranking, asked.exclude_seen),
                model,
                [instance.item_ids for instance in asked.instances],
                self.mask(model.recommender, asked),
            )
        except QueueFullError as error:
            message = "the queue is full; ask again, or ask another server"
            raise RefusedError(503, "queue_full", message, headers={"Retry-After": "1"}) from error
        except GenrecError as error:
            raise RefusedError(422, "cannot_rank", str(error)) from error
        answers = [
            _answer(instance.user_id, ranking, place, asked.topk)
            for instance, (ranking, place) in zip(asked.instances, ranked, strict=True)
        ]
        return JSONResponse({"predictions": answers})

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
        coding = request.headers.get("content-encoding", "identity").lower()
        if coding != "identity":
            raise RefusedError(415, "encoding", f"content-encoding {coding[:40]} is not read; send the body as it is")
        most, read = self.settings.max_body_kb * 1024, bytearray()
        declared = request.headers.get("content-length", "0")
        if not declared.isascii() or not declared.isdigit() or int(declared) > most:
            raise self._too_large()
        async for chunk in request.stream():
            read += chunk
            if len(read) > most:
                raise self._too_large()
        return bytes(read)

    def _too_large(self) -> RefusedError:
        message = f"the body is larger than {self.settings.max_body_kb} KiB; send fewer users at once"
        return RefusedError(413, "body_too_large", message, headers={"Connection": "close"})

    def model(self) -> ServedModel:
        """The model that serves now."""
        model = self.holder.current
        if model is None or self.stopping:
            message = "the server is stopping" if self.stopping else "the model is not loaded yet"
            raise RefusedError(503, "not_ready", message, headers={"Retry-After": "1"})
        return model

    def mask(self, recommender: Recommender, asked: PredictionRequest) -> np.ndarray | None:
        """The rows that the request's lists and rule leave."""
        given = [name for name in ("rule", "deny", "allow") if getattr(asked, name) is not None]
        try:
            return recommender.allowed(asked.allow, asked.deny, asked.rule)
        except GenrecError as error:
            raise RefusedError(422, "constraint", str(error), given[0] if given else None) from error

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
            "items": len(model.recommender.item_ids),
            "rankings": list(model.recommender.weights.modes()),
            "loaded_at": round(model.loaded_at, 3),
            "load_seconds": round(model.load_seconds, 3),
            "last_failure": self.holder.failure,
        }


def _answer(user_id: str | int, ranking: Ranking, place: int, topk: int) -> dict[str, Any]:
    """One user's items, and whatever a client should know of them."""
    items = ranking.of(place).tolist()
    answer: dict[str, Any] = {"user_id": user_id, "predictions": items}
    if len(items) < topk:
        answer["note"] = f"{len(items)} of {topk}: no more items are allowed and unseen"
    if ranking.popular[place]:
        answer["popular"] = True
    if ranking.unknown[place]:
        answer["unknown_items"] = int(ranking.unknown[place])
    return answer


def build_app(server: Server) -> FastAPI:
    """The application: routes, errors as JSON, figures of every request."""
    name = server.settings.name

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        server.stopping = True
        await asyncio.to_thread(server.batcher.close)

    app = FastAPI(title="genrec", description="Generative retrieval recommender.", lifespan=lifespan)
    schema = _inline(PredictionRequest.model_json_schema())
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}

    @app.post(f"/predictions/{name}", openapi_extra=body, summary="Recommend items to users")
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

    @app.get("/health/live", summary="The process answers")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/health/ready", summary="The model is loaded and warm, and the server is not stopping")
    async def ready() -> Response:
        try:
            server.model()
        except RefusedError as error:
            return JSONResponse(error.content(), error.status, error.headers)
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", summary="Figures for Prometheus")
    async def metrics() -> Response:
        return Response(generate_latest(server.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        code = _CODES.get(error.status_code, "http_error")
        refused = RefusedError(error.status_code, code, f"{request.method} {request.url.path}: {error.detail}")
        return JSONResponse(refused.content(), refused.status, dict(error.headers or {}))

    return app


async def _measured(server: Server, request: Request, handle: Handler) -> Response:
    """Answer with an error of our own form where ``handle`` fails, and note status and time."""
    began = time.perf_counter()
    try:
        response = await handle(request)
    except RefusedError as error:
        response = JSONResponse(error.content(), error.status, error.headers)
    except ClientDisconnect:
        response = Response(status_code=_CLIENT_CLOSED)
    except Exception:
        LOG.exception("%s %s failed", request.method, request.url.path)
        failed = RefusedError(500, "internal", "the server failed; its log says why")
        response = JSONResponse(failed.content(), failed.status)
    server.metrics.requests.labels(str(response.status_code)).inc()
    server.metrics.seconds.observe(time.perf_counter() - began)
    return response


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
