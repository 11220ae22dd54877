"""What a client may ask, and how a request that cannot be served is answered."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genrec_core.settings import RankingMode, ServingSettings

ItemId = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]


class Instance(BaseModel):
    """A user and the items of the history, oldest first."""

    model_config = ConfigDict(extra="forbid")
    user_id: Annotated[str, Field(strict=True, max_length=1000)] | ItemId
    item_ids: list[ItemId]


class PredictionRequest(BaseModel):
    """Users to recommend items to, and what holds for all of them."""

    model_config = ConfigDict(extra="forbid")
    instances: list[Instance] = Field(min_length=1)
    topk: Annotated[int, Field(strict=True, ge=1)] = Field(10, description="Items a user.")
    ranking: RankingMode = Field("hybrid", description="What orders the items.")
    exclude_seen: Annotated[bool, Field(strict=True)] = Field(True, description="Leave out the user's own items.")
    allow: list[ItemId] | None = Field(None, description="The only items to recommend.")
    deny: list[ItemId] | None = Field(None, description="Items never to recommend.")
    rule: Annotated[str, Field(strict=True, max_length=10_000)] | None = Field(
        None, description="What every item must meet, such as brand = OPI and not category = Nails."
    )


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
        request = PredictionRequest.model_validate_json(body)
    except ValidationError as error:
        raise _refused(error) from error
    if len(request.instances) > limits.max_instances:
        raise _beyond("instances", f"{len(request.instances)} instances", limits.max_instances)
    if request.topk > limits.max_topk:
        raise _beyond("topk", f"topk {request.topk}", limits.max_topk)
    for number, instance in enumerate(request.instances):
        if len(instance.item_ids) > limits.max_history:
            raise _beyond(f"instances.{number}.item_ids", f"{len(instance.item_ids)} items", limits.max_history)
    for name in ("allow", "deny"):
        listed = getattr(request, name) or ()
        if len(listed) > limits.max_listed:
            raise _beyond(name, f"{len(listed)} items", limits.max_listed)
    return request


def _refused(error: ValidationError) -> RefusedError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return RefusedError(400, "invalid_json", f"the body is no JSON: {first['msg']}")
    place = [str(part) for part in first["loc"] if not (isinstance(part, str) and not part.isidentifier())]
    return RefusedError(422, "invalid_field", first["msg"], ".".join(place) or "body")


def _beyond(place: str, found: str, most: int) -> RefusedError:
    return RefusedError(422, "too_many", f"{found}, but this server takes at most {most}", place)
