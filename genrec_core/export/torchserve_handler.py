"""What a TorchServe worker runs: request bodies in, ranked items out, each request with its own answer or error.

:mod:`genrec_core.export.torchserve` copies this file into the archive. TorchServe wants one class in it.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

from genrec_core.errors import GenrecError
from genrec_core.recommend.instances import InstancesRequest, InvalidRequestError, answer_instances, read_instances
from genrec_core.recommend.recommender import Recommender

MODEL_FOLDER = "model"
_BAD_REQUEST = 400


class RecommenderHandler:
    """TorchServe's handler interface over the :class:`~genrec_core.recommend.recommender.Recommender`."""

    def initialize(self, context: Any) -> None:
        """Open the model that lies unpacked beside this file.

        Raises:
            GenrecError: a file of the model is missing or damaged; the worker then ends, and its log says so.
        """
        self.recommender = Recommender.from_folder(Path(context.system_properties["model_dir"]) / MODEL_FOLDER)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, Any]]:
        """Answer a batch of requests, those with the same options together.

        Args:
            data: one entry a request, its content under ``body``.
            context: TorchServe's ``Context``, which takes status and content type of each response.
        """
        answers: list[dict[str, Any]] = [{}] * len(data)
        alike: dict[str, list[int]] = defaultdict(list)
        requests: dict[int, InstancesRequest] = {}
        for place, row in enumerate(data):
            context.set_response_content_type(place, "application/json")
            try:
                requests[place] = _request(row)
                alike[requests[place].options()].append(place)
            except InvalidRequestError as error:
                answers[place] = _refusal(error, place, context)
        for places in alike.values():
            for place, answer in zip(places, self._answer(places, requests, context), strict=True):
                answers[place] = answer
        return answers

    def _answer(self, places: list[int], requests: dict[int, InstancesRequest], context: Any) -> list[dict[str, Any]]:
        """The answers of requests with the same options, or a refusal of each where the model cannot answer."""
        try:
            return answer_instances(self.recommender, [requests[place] for place in places])
        except GenrecError as error:
            return [_refusal(error, place, context) for place in places]


def _request(row: dict[str, Any]) -> InstancesRequest:
    if "body" not in row:
        reason = "no JSON body; send one with the header Content-Type: application/json"
        raise InvalidRequestError([{"field": "request", "reason": reason}])
    return read_instances(row["body"])


def _refusal(error: GenrecError, place: int, context: Any) -> dict[str, Any]:
    """``{"code": 400, "type": ..., "message": ..., "faults": ...}``: TorchServe's own form, and the faulty fields."""
    context.set_response_status(_BAD_REQUEST, "Bad Request", place)
    faults = error.faults if isinstance(error, InvalidRequestError) else []
    return {"code": _BAD_REQUEST, "type": "InvalidRequest", "message": str(error), "faults": faults}
