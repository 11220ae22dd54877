"""What clients may send: the fields of each request, their checks, and the errors that a client gets."""

import json
from typing import Any, Generic, Literal, TypeVar

from pydantic import Field, StrictBool, StrictInt, StrictStr, ValidationError

from genrec_core.data.ids import ItemId, TextId, item_ids_of
from genrec_core.errors import GenrecError
from genrec_core.recommend.instances import Id, InstancesRequest
from genrec_core.settings import Fallback, ServingSettings, Settings

RETRY = {"Retry-After": "1"}
_NAME_CHARACTERS = 60  # of a name from outside that an error quotes
_RULE_CHARACTERS = 10_000  # as in rules.py, which needs NumPy
_QUERY_CHARACTERS = 200
_MOST_FOUND = 100
_MOST_ADDED = 100

Likeness = Literal["model", "text", "codes"]


class PredictionRequest(InstancesRequest[Id]):
    """TorchServe's request: users, and options for all of them. The server's settings bound it."""

    topk: StrictInt = Field(128, ge=1, description="Items a user.")
    titles: StrictBool = Field(False, description="Add `items`: title, brand, categories and price of each item.")
    scores: StrictBool = Field(False, description="Add `scores`: the log-probability of each item.")
    explain: StrictBool = Field(
        False, description="Add `explanations` of the first items: which items of the history moved each most, and why."
    )
    fallback: Fallback = Field("popular", description="What users without a known item get.")

    def options(self, explained: int = 0) -> str:
        """All of it but the users, as JSON; what is off is left out. ``explained`` items of a list are explained."""
        plain = self.model_dump_json(exclude={"instances", "titles", "scores", "explain", "fallback"})
        details = {"titles": self.titles, "scores": self.scores, "explained": explained if self.explain else 0}
        more: dict[str, Any] = {"details": details} if any(details.values()) else {}
        if self.fallback != "popular":
            more["fallback"] = self.fallback
        return json.dumps(json.loads(plain) | more) if more else plain


class SimilarRequest(Settings, Generic[Id]):
    """Items, and what else should be like them."""

    item_ids: list[Id] = Field(min_length=1, description="The items; several stand for their mean.")
    topk: StrictInt = Field(10, ge=1, description="Similar items to give; never the items themselves.")
    by: Likeness = Field(
        "model", description="What is compared: what the model learned, the texts, or the semantic IDs."
    )
    allow: list[Id] | None = Field(None, description="The only items to give; null for all.")
    deny: list[Id] = Field(default_factory=list, description="Items never to give.", json_schema_extra={"default": []})
    rule: StrictStr | None = Field(
        None, max_length=_RULE_CHARACTERS, description="A condition that every item given must meet."
    )
    titles: StrictBool = Field(False, description="Add `items`: title, brand, categories and price of each item.")
    scores: StrictBool = Field(False, description="Add `scores`: how similar each item is.")

    def options(self) -> str:
        """All of it but the items, as JSON."""
        return json.dumps({"lookup": "similar", **self.model_dump(exclude={"item_ids"})})


class WithdrawalRequest(Settings, Generic[Id]):
    """Items that may not come out any more."""

    item_ids: list[Id] = Field(min_length=1, description="The items; every one must be in the model.")
    restore: StrictBool = Field(False, description="Recommend them again.")


class AdditionRequest(Settings):
    """Items that the model should hold too."""

    items: list[dict[str, Any]] = Field(
        min_length=1, max_length=_MOST_ADDED,
        description="The new items, each with `item_id`, and `text` or fields of the catalogue such as `title`.",
    )  # fmt: skip


class ItemsQuery(Settings):
    """The query of ``GET /items``: a search, or ``item_id`` several times."""

    query: str = Field("", max_length=_QUERY_CHARACTERS, description="Beginnings of words of the title, or an item id.")
    topk: int = Field(20, ge=1, le=_MOST_FOUND, description="Most items to find.")
    item_id: list[str] = Field(
        default_factory=list, description="Describe these items instead; may come several times.",
        json_schema_extra={"default": []},
    )  # fmt: skip


# The form of each request by whether item ids are text.
_PREDICTION: dict[bool, type[PredictionRequest[Any]]] = {
    False: PredictionRequest[ItemId],
    True: PredictionRequest[TextId],
}
_SIMILAR: dict[bool, type[SimilarRequest[Any]]] = {False: SimilarRequest[ItemId], True: SimilarRequest[TextId]}
_WITHDRAWAL: dict[bool, type[WithdrawalRequest[Any]]] = {
    False: WithdrawalRequest[ItemId],
    True: WithdrawalRequest[TextId],
}
_Form = TypeVar("_Form", bound=Settings)


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


def parse(body: bytes, limits: ServingSettings, text_ids: bool = False) -> PredictionRequest[Any]:
    """Check a request's body; ``text_ids`` is as for :func:`~genrec_core.recommend.instances.read_instances`.

    Raises:
        RefusedError: the body is not JSON (400), or a field is missing, of another type or beyond a limit (422).
    """
    request = _validated(_PREDICTION[text_ids], _json_content(body))
    _check_size("instances", len(request.instances), min(limits.max_instances, limits.queue))
    _check_size("topk", request.topk, limits.max_topk)
    for number, instance in enumerate(request.instances):
        _check_size(f"instances.{number}.item_ids", len(instance.item_ids), limits.max_history)
    _check_size("allow", len(request.allow or ()), limits.max_listed)
    _check_size("deny", len(request.deny), limits.max_listed)
    if request.explain:
        _check_size("explain", len(request.instances), limits.max_explained_users, "users with explanations")
    if request.titles:
        _check_size("titles", len(request.instances) * request.topk, limits.max_titles, "items with titles")
    return request


def parse_similar(body: bytes, limits: ServingSettings, text_ids: bool = False) -> SimilarRequest[Any]:
    """The same for ``/similar``."""
    request = _validated(_SIMILAR[text_ids], _json_content(body))
    _check_size("item_ids", len(request.item_ids), limits.max_history)
    _check_size("topk", request.topk, limits.max_topk)
    _check_size("allow", len(request.allow or ()), limits.max_listed)
    _check_size("deny", len(request.deny), limits.max_listed)
    return request


def parse_withdrawal(body: bytes, limits: ServingSettings, text_ids: bool = False) -> WithdrawalRequest[Any]:
    """The same for ``/admin/withdraw``."""
    request = _validated(_WITHDRAWAL[text_ids], _json_content(body))
    _check_size("item_ids", len(request.item_ids), limits.max_listed)
    return request


def parse_addition(body: bytes) -> AdditionRequest:
    """The same for ``/admin/add-items``; what an item holds is checked when it is added."""
    return _validated(AdditionRequest, _json_content(body))


def parse_items_query(
    pairs: list[tuple[str, str]], limits: ServingSettings, text_ids: bool = False
) -> tuple[ItemsQuery, list[Any]]:
    """The query of ``GET /items``, and the ids in it, int or str; errors as of :func:`parse`."""
    content: dict[str, Any] = _object([pair for pair in pairs if pair[0] != "item_id"])
    query = _validated(ItemsQuery, content | {"item_id": [value for name, value in pairs if name == "item_id"]})
    if query.item_id and "query" in content:
        raise RefusedError(422, "invalid_field", "search by query, or name items by item_id, not both", "item_id")
    _check_size("item_id", len(query.item_id), limits.max_history)
    try:
        return query, item_ids_of(query.item_id, text_ids)
    except GenrecError as error:
        raise RefusedError(422, "invalid_field", str(error), "item_id") from error


def _validated(form: type[_Form], content: object) -> _Form:
    try:
        return form.model_validate(content)
    except ValidationError as error:
        raise _refused(error) from error


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


def _check_size(field: str, size: int, limit: int, things: str = "") -> None:
    if size > limit:
        what = f"{size} {things}".strip()
        raise RefusedError(422, "too_many", f"{what}, but this server takes at most {limit}", field)
