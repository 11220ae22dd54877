"""What a client may ask, and how a request that cannot be served is answered."""

import json
from typing import Any

from pydantic import Field, StrictInt, ValidationError

from genrec_core.recommend.instances import InstancesRequest
from genrec_core.settings import ServingSettings

RETRY = {"Retry-After": "1"}
_SHOWN = 60  # characters of a name that an error quotes


class PredictionRequest(InstancesRequest):
    """Users to recommend items to, and what holds for all of them: TorchServe's request, its bounds being settings."""

    topk: StrictInt = Field(128, ge=1, description="Items a user.")


class RefusedError(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        code: a word for programs.
        message: a sentence for people.
        field: the part of the request at fault, such as ``instances.0.item_ids.2``.
        headers: of the answer.
    """

    def __init__(
        self, status: int, code: str, message: str, field: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.field, self.headers = status, code, message, field, headers

    def content(self) -> dict[str, Any]:
        """The answer's JSON."""
        return {"error": {"code": self.code, "message": self.message, "field": self.field}}


def parse(body: bytes, limits: ServingSettings) -> PredictionRequest:
    """Check a request's body.

    Raises:
        RefusedError: it is no JSON (400), or a field is missing, of another type or beyond a limit (422).
    """
    try:
        request = PredictionRequest.model_validate(_decoded(body))
    except ValidationError as error:
        raise _refused(error) from error
    _check_size("instances", len(request.instances), min(limits.max_instances, limits.queue))
    _check_size("topk", request.topk, limits.max_topk)
    for number, instance in enumerate(request.instances):
        _check_size(f"instances.{number}.item_ids", len(instance.item_ids), limits.max_history)
    _check_size("allow", len(request.allow or ()), limits.max_listed)
    _check_size("deny", len(request.deny), limits.max_listed)
    return request


def _decoded(body: bytes) -> object:
    """The body's content; other than by ``json`` alone, a name that comes twice in an object is an error."""
    try:
        text = body.decode("utf-8")
        content = _DECODER.decode(text)
        if "\\ud" in text.lower():  # an escaped surrogate: half a pair is no text
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise RefusedError(400, "invalid_json", "the body is nested too deeply") from error
    except ValueError as error:  # no UTF-8, no JSON, or an integer of thousands of digits
        raise RefusedError(400, "invalid_json", f"the body is no JSON in UTF-8: {error}") from error
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RefusedError(422, "repeated_field", "this field is given twice in one object", _shown(twice))
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _refused(error: ValidationError) -> RefusedError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = [_shown(part) for part in first["loc"]]
    if "user_id" in place:
        place = place[: place.index("user_id") + 1]  # what follows tells text from integer
    return RefusedError(422, "invalid_field", first["msg"], ".".join(place) or "body")


def _shown(part: str | int) -> str:
    """A name from outside, short and in ASCII."""
    return str(part)[:_SHOWN].encode("ascii", "backslashreplace").decode()


def _check_size(place: str, found: int, most: int) -> None:
    if found > most:
        raise RefusedError(422, "too_many", f"{found}, but this server takes at most {most}", place)
