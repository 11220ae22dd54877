"""Explained lists in words, for ``genrec explain``, and as JSON, which ``genrec predict --explain`` writes."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genrec_core.data.ids import AnyId
from genrec_core.recommend.explain import Explanation, Reason
from genrec_core.recommend.recommender import Ranking, Recommender
from genrec_core.recommend.request_files import Request
from genrec_core.settings import PredictionSettings
from genrec_core.storage.artifacts import atomic_file

_LISTED = 10  # items of a list that are explained in a file
_WIDTH = 60  # of a printed title
_LINE_ENDS = str.maketrans("\r\n\t", "   ")


class ExplainedRequests:
    """Collects the explanations of the first requests of a file.

    Args:
        recommender: what ranks the requests.
        settings: as for the prediction file.
        users: how many requests are explained.
    """

    def __init__(self, recommender: Recommender, settings: PredictionSettings, users: int) -> None:
        self._recommender, self._settings, self._users = recommender, settings, users
        self._lines: list[str] = []

    def add(self, requests: Sequence[Request], ranking: Ranking) -> None:
        """Explain the first ten items of each list, until enough requests are explained."""
        for user, request in enumerate(requests[: self._users - len(self._lines)]):
            items = ranking.of(user)[:_LISTED].tolist()
            explained = self._recommender.explain(
                request.item_ids, items, ranking=self._settings.ranking, exclude_seen=self._settings.exclude_seen
            )
            content = {
                "user_id": request.user_id,
                "history": [_named(self._recommender, item) for item in request.item_ids],
                "items": [as_json(self._recommender, each) for each in explained],
            }
            self._lines.append(json.dumps(content, ensure_ascii=False, allow_nan=False))

    def save(self, path: Path) -> None:
        """Write a JSON object a line for each request; the file appears whole."""
        with atomic_file(path) as part:
            part.write_text("".join(f"{line}\n" for line in self._lines), encoding="utf-8")


def as_json(recommender: Recommender, explanation: Explanation) -> dict[str, Any]:
    """An explanation with the titles of its items; a score that is not a number becomes null."""
    content = {**_named(recommender, explanation.item_id), **asdict(explanation)}
    content["score"] = explanation.score if math.isfinite(explanation.score) else None
    content["reasons"] = [{**_named(recommender, reason.item_id), **asdict(reason)} for reason in explanation.reasons]
    return content


def _named(recommender: Recommender, item: AnyId) -> dict[str, Any]:
    return {"item_id": item, "title": recommender.describe([item])[0].title}


@dataclass(frozen=True)
class ExplainedList:
    """A list and its explanations, for a terminal."""

    recommender: Recommender
    history: Sequence[AnyId]
    explanations: list[Explanation]

    def lines(self) -> Iterator[str]:
        """The history, then each item with the items of the history that moved it most."""
        yield "history, oldest first"
        for item in self.history:
            yield f"       {self._name(item)}"
        for place, each in enumerate(self.explanations, start=1):
            yield ""
            yield f"{place:3}.  {self._name(each.item_id)}"
            yield f"       {_standing(each)}"
            for reason in each.reasons:
                yield f"{reason.effect:+7.2f}  {self._name(reason.item_id)}{_relation(reason)}"

    def _name(self, item: AnyId) -> str:
        title = self.recommender.describe([item])[0].title.translate(_LINE_ENDS)
        shown = title if len(title) <= _WIDTH else title[: _WIDTH - 3] + "..."
        return f"{shown} [{item}]"


def _standing(explanation: Explanation) -> str:
    """The score of an item and its places."""
    if not math.isfinite(explanation.score):
        return "no item of the history is known, so the list does not depend on it"
    places = {"dense": explanation.dense_rank, "generative": explanation.generative_rank}
    stands = [f"place {place} of the {ranking} ranking" for ranking, place in places.items() if place]
    return ", ".join([f"score {explanation.score:.2f} ({explanation.ranking})", *stands])


def _relation(reason: Reason) -> str:
    """What connects both items beside the effect; nothing where nothing does."""
    facts = []
    if reason.bought_together:
        facts.append(f"bought together {reason.bought_together} times")
    if reason.shared_levels:
        facts.append(f"codes share {reason.shared_levels} levels")
    if reason.text_similarity is not None:
        facts.append(f"texts {reason.text_similarity:.2f}")
    return f"  ({', '.join(facts)})" if facts else ""
