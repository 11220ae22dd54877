"""What ``/openapi.json`` and ``/docs`` say of each route's request: fields, and an example."""

import json
from typing import Any

from pydantic import BaseModel

from genrec_core.data.ids import ItemId, TextId
from genrec_core.serving.request_body import (
    AdditionRequest,
    ItemsQuery,
    PredictionRequest,
    SimilarRequest,
    WithdrawalRequest,
)


def prediction_body() -> dict[str, Any]:
    """The body of ``POST /predictions/<name>``."""
    example = {"topk": 4, "instances": [{"user_id": "1", "item_ids": [1, 2, 3, 4]}], "titles": True}
    return _body(PredictionRequest[ItemId | TextId], example)


def similar_body() -> dict[str, Any]:
    """The body of ``POST /similar/<name>``."""
    return _body(SimilarRequest[ItemId | TextId], {"item_ids": [1], "topk": 4, "titles": True})


def withdrawal_body() -> dict[str, Any]:
    """The body of ``POST /admin/withdraw``."""
    return _body(WithdrawalRequest[ItemId | TextId], {"item_ids": [1]})


def addition_body() -> dict[str, Any]:
    """The body of ``POST /admin/add-items``."""
    return _body(AdditionRequest, {"items": [{"item_id": 900001, "title": "Matt lipstick", "brand": "Fiora"}]})


def items_query() -> dict[str, Any]:
    """The query of ``GET /items``."""
    examples: dict[str, Any] = {"query": "cream", "topk": 5}
    fields = ItemsQuery.model_json_schema()["properties"]
    return {
        "parameters": [
            {"name": name, "in": "query", "schema": field, "description": field["description"]}
            | ({"example": examples[name]} if name in examples else {})
            for name, field in fields.items()
        ]
    }


def _body(form: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """A body as OpenAPI describes it, without references."""
    schema = form.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolved(part: dict[str, Any]) -> dict[str, Any]:
        return definitions[part["$ref"].rpartition("/")[2]] if "$ref" in part else part

    schema = json.loads(json.dumps(schema), object_hook=resolved)
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}
