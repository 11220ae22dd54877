"""The body of a prediction request: its fields, its checks, and the errors that a client gets."""

import json
from typing import Any

from pydantic import Field, StrictInt, ValidationError

from genrec_core.data.ids import ItemId, TextId
from genrec_core.recommend.instances import Id, InstancesRequest
from genrec_core.settings import ServingSettings

RETRY = {"Retry-After": "1"}
_EXAMPLE = {"topk": 4, "instances": [{"user_id": "1", "item_ids": [1, 2, 3, 4]}]}
_NAME_CHARACTERS = 60  # of a name from outside that an error quotes


class PredictionRequest(InstancesRequest[Id]):
    """TorchServe's request: users, and options for all of them. The server's settings bound it."""

    topk: StrictInt = Field(128, ge=1, description="Items a user.")


_FORMS: dict[bool, type[PredictionRequest[Any]]] = {False: PredictionRequest[ItemId], True: PredictionRequest[TextId]}


class RefusedError(Exception):
    """A request that is answered with an error.

    Args:
        code: a word for programs.
        message: a sentence for people.
        field: the part of the request that is wrong, such as ``instances.0.item_ids.2``.
    """

    def __init__(
        self, status: int, code: str, message: str, field: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.field, self.headers = status, code, message, field, headers

    def content(self) -> dict[str, Any]:
        """The answer's JSON."""
        return {"error": {"code": self.code, "message": self.message, "field": self.field}}


def body_schema() -> dict[str, Any]:
    """The body as OpenAPI describes it, without references."""
    schema = PredictionRequest[ItemId | TextId].model_json_schema()
    definitions = schema.pop("$defs")

    def resolved(part: dict[str, Any]) -> dict[str, Any]:
        return definitions[part["$ref"].rpartition("/")[2]] if "$ref" in part else part

    schema = json.loads(json.dumps(schema), object_hook=resolved)
    return {"required": True, "content": {"application/json": {"schema": schema, "example": _EXAMPLE}}}


def parse(body: bytes, limits: ServingSettings, text_ids: bool = False) -> PredictionRequest[Any]:
    """Check a request's body; ``text_ids`` is as for :func:`~genrec_core.recommend.instances.read_instances`.

    Raises:
        RefusedError: the body is not JSON (400), or a field is missing, of another type or beyond a limit (422).
    """
    try:
        request = _FORMS[text_ids].model_validate(_json_content(body))
    except ValidationError as error:
        raise _refused(error) from error
    _check_size("instances", len(request.instances), min(limits.max_instances, limits.queue))
    _check_size("topk", request.topk, limits.max_topk)
    for number, instance in enumerate(request.instances):
        _check_size(f"instances.{number}.item_ids", len(instance.item_ids), limits.max_history)
    _check_size("allow", len(request.allow or ()), limits.max_listed)
    _check_size("deny", len(request.deny), limits.max_listed)
    return request


def _json_content(body: bytes) -> object:
    try:
        text = body.decode("utf-8")
        content = json.loads(text, object_pairs_hook=_object)
        if "\\ud" in text.lower():  # an escaped surrogate; without its other half it is no text
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise RefusedError(400, "invalid_json", "the body is nested too deeply") from error
    except ValueError as error:  # no UTF-8, no JSON, or an integer of thousands of digits
        raise RefusedError(400, "invalid_json", f"the body is not JSON in UTF-8: {error}") from error
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; ``json`` alone would take the last of two values of a name."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RefusedError(422, "repeated_field", "this field comes twice in one object", _short(twice))
    return content


def _refused(error: ValidationError) -> RefusedError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = [_short(part) for part in first["loc"]]
    if "user_id" in place:
        place = place[: place.index("user_id") + 1]  # pydantic adds which type of the union it tried
    return RefusedError(422, "invalid_field", first["msg"], ".".join(place) or "body")


def _short(name: str | int) -> str:
    """A name from outside, short and in ASCII."""
    return str(name)[:_NAME_CHARACTERS].encode("ascii", "backslashreplace").decode()


def _check_size(field: str, size: int, limit: int) -> None:
    if size > limit:
        raise RefusedError(422, "too_many", f"{size}, but this server takes at most {limit}", field)
