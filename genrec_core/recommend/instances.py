"""One request of several users and its answer, in the form that all model servers share.

A request is ``{"topk": 4, "instances": [{"user_id": "1", "item_ids": [1, 2, 3]}, ...]}``, its answer
``{"predictions": [{"user_id": "1", "predictions": [44, 39, 10521, 3288]}, ...]}``. Item ids are JSON numbers, or
strings where the model's ids are text.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import Field, StrictBool, StrictInt, StrictStr, ValidationError

from genrec_core.data.ids import ItemId, TextId
from genrec_core.errors import GenrecError
from genrec_core.settings import RankingChoice, Settings

if TYPE_CHECKING:  # the online server reads requests in a process without NumPy and onnxruntime
    from genrec_core.recommend.recommender import Recommender

_SHOWN_FAULTS = 10
MOST_INSTANCES = 10_000


Id = TypeVar("Id")  # of an item: ItemId or TextId


class Instance(Settings, Generic[Id]):
    """One user of a request."""

    user_id: StrictStr | StrictInt = Field(description="The user's id; the answer repeats it.")
    item_ids: list[Id] = Field(description="The history, oldest first; items that the catalogue lacks are ignored.")


class InstancesRequest(Settings, Generic[Id]):
    """The users to recommend items to, and the options that hold for all of them."""

    topk: StrictInt = Field(128, ge=1, le=1000, description="Items a user.")
    instances: list[Instance[Id]] = Field(
        min_length=1, max_length=MOST_INSTANCES, description="The users, in any order."
    )
    ranking: RankingChoice = Field("auto", description="What orders the items; auto: what the training chose.")
    exclude_seen: StrictBool | None = Field(
        None, description="Never recommend an item of the user's own history; null: as the training chose."
    )
    allow: list[Id] | None = Field(None, description="The only items to recommend; null for all.")
    deny: list[Id] = Field(  # a default would be copied for every request
        default_factory=list, description="Items never to recommend.", json_schema_extra={"default": []}
    )
    rule: StrictStr | None = Field(
        None,
        max_length=10_000,  # characters, as in rules.py, which needs NumPy
        description="A condition that every recommended item must meet, such as brand = OPI and not category = Nails.",
    )

    def options(self) -> str:
        """The request without its users; requests with the same options can be ranked together."""
        return self.model_dump_json(exclude={"instances"})


_FORMS: dict[bool, type[InstancesRequest[Any]]] = {False: InstancesRequest[ItemId], True: InstancesRequest[TextId]}


class InvalidRequestError(GenrecError):
    """A request that cannot be answered; ``faults`` are like ``{"field": "instances.0.item_ids", "reason": "..."}``."""

    def __init__(self, faults: list[dict[str, str]]) -> None:
        super().__init__("; ".join(f"{fault['field']}: {fault['reason']}" for fault in faults))
        self.faults = faults


def read_instances(body: object, text_ids: bool = False) -> InstancesRequest[Any]:
    """Check a request: JSON text, or the content decoded from it; an InvalidRequestError names the first ten faults.

    Item ids are integers, or text where the model's are (``text_ids``); then a number stands for its digits.
    """
    try:
        text = body if isinstance(body, str | bytes | bytearray) else json.dumps(body)
        return _FORMS[text_ids].model_validate_json(text)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False, include_context=False)[:_SHOWN_FAULTS]
        faults = [{"field": ".".join(map(str, fault["loc"])) or "request", "reason": fault["msg"]} for fault in errors]
        raise InvalidRequestError(faults) from error


def answer_instances(recommender: "Recommender", requests: Sequence[InstancesRequest[Any]]) -> list[dict[str, Any]]:
    """Answer requests that share their :meth:`~InstancesRequest.options`, all users ranked together."""
    options, instances = requests[0], [instance for request in requests for instance in request.instances]
    ranking = recommender.rank(
        [instance.item_ids for instance in instances],
        options.topk,
        exclude_seen=options.exclude_seen,
        ranking=options.ranking,
        allowed=recommender.allowed(options.allow, options.deny or None, options.rule),
    )
    lists = iter(ranking.of(user).tolist() for user in range(len(instances)))
    return [
        {"predictions": [{"user_id": each.user_id, "predictions": next(lists)} for each in request.instances]}
        for request in requests
    ]
