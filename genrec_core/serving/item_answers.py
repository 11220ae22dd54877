"""What a decoding process answers beside ranked ids: facts, scores and explanations of items, searches, similar items.

Everything here is JSON: numbers that are not finite become null.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from genrec_core.data.ids import AnyId
from genrec_core.errors import GenrecError
from genrec_core.recommend.constraints import Constraints
from genrec_core.recommend.recommender import Ranking, Recommender

_DIGITS = 6  # of a score after the point
Json = dict[str, Any]


class LookupRefusedError(GenrecError):
    """A lookup that the model cannot answer; ``field`` is the part of the request at fault."""

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.refused = {"code": code, "message": message, "field": field}


def details_of(
    recommender: Recommender, options: Json, histories: Sequence[Sequence[AnyId]], ranking: Ranking
) -> list[Json]:
    """What ``options["details"]`` asks for of each user's list: ``items``, ``scores`` and ``explanations``.

    A list of fallback items has null scores and no explanations.
    """
    wanted, details = options["details"], []
    for user, history in enumerate(histories):
        items, popular = ranking.of(user).tolist(), bool(ranking.popular[user])
        more: Json = {}
        if wanted["titles"]:
            more["items"] = facts_of(recommender, items)
        if wanted["scores"]:
            more["scores"] = _numbers(ranking.scores[user, : len(items)].tolist())
        if wanted["explained"]:
            explained = [] if popular else items[: wanted["explained"]]
            more["explanations"] = _explanations(recommender, options, history, explained)
        details.append(more)
    return details


def facts_of(recommender: Recommender, items: Sequence[AnyId]) -> list[Json]:
    """``item_id``, ``title``, ``brand``, ``categories`` and ``price`` of each item."""
    return [asdict(facts) for facts in recommender.describe(items)]


def _explanations(recommender: Recommender, options: Json, history: Sequence[AnyId], items: list[AnyId]) -> list[Json]:
    if not items:
        return []
    how = {"ranking": options["ranking"], "exclude_seen": options["exclude_seen"]}
    explanations = [asdict(each) for each in recommender.explain(history, items, **how)]
    for explanation in explanations:
        del explanation["item_id"]  # its place in the list says it
        explanation["score"] = _number(explanation["score"])
        reasons = explanation["reasons"]
        facts = recommender.describe([reason["item_id"] for reason in reasons])
        explanation["reasons"] = [
            {"item_id": reason.pop("item_id"), "title": item.title, **{name: _number(reason[name]) for name in reason}}
            for reason, item in zip(reasons, facts, strict=True)
        ]
    return explanations


def similar(recommender: Recommender, options: Json, items: list[AnyId]) -> tuple[list[AnyId], Json]:
    """Items like ``items``, with the details that ``options`` ask for."""
    try:
        selection = recommender.selection(Constraints.of(options["allow"], options["deny"] or None, options["rule"]))
    except GenrecError as error:
        field = next((name for name in ("rule", "deny", "allow") if options[name]), "allow")
        raise LookupRefusedError("constraint", str(error), field) from error
    count = min(options["topk"], len(recommender.item_ids))
    try:
        alike = recommender.similar(items, count, by=options["by"], allowed=selection.mask)
    except GenrecError as error:
        field = "by" if str(error).startswith("similar by") else "item_ids"
        raise LookupRefusedError("no_similar", str(error), field) from error
    ids = alike.items.tolist()
    more: Json = {"warnings": list(selection.warnings)} if selection.warnings else {}
    if options["titles"]:
        more["items"] = facts_of(recommender, ids)
    if options["scores"]:
        more["scores"] = _numbers(alike.scores.tolist())
    return ids, more


def found(recommender: Recommender, options: Json, items: list[AnyId]) -> tuple[list[AnyId], Json]:
    """The items that ``options["query"]`` finds, best first."""
    ids = list(recommender.find(options["query"], min(options["topk"], len(recommender.item_ids))))
    return ids, {"items": facts_of(recommender, ids)}


def described(recommender: Recommender, options: Json, items: list[AnyId]) -> tuple[list[AnyId], Json]:
    """The facts of ``items``, in order; one that the model lacks has a title made of its id."""
    return items, {"items": facts_of(recommender, items)}


def example(recommender: Recommender, options: Json, items: list[AnyId]) -> tuple[list[AnyId], Json]:
    """A history drawn from those stored with the model."""
    histories = recommender.example_histories()
    if not histories:
        raise LookupRefusedError("no_examples", "no example histories are stored with this model; export it with some")
    ids = list(random.choice(histories))
    return ids, {"items": facts_of(recommender, ids)}


LOOKUPS: dict[str, Callable[[Recommender, Json, list[AnyId]], tuple[list[AnyId], Json]]] = {
    "similar": similar,
    "find": found,
    "describe": described,
    "example": example,
}


def _number(value: Any) -> Any:
    """A float rounded, and null where it is not finite; anything else as it is."""
    if not isinstance(value, float):
        return value
    return round(value, _DIGITS) if math.isfinite(value) else None


def _numbers(values: Any) -> list[Any]:
    return [_number(value) for value in values]
