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
        """Open the model that lies unpacked beside this file; a damaged file ends the worker, and its log says so."""
        self.recommender = Recommender.open(Path(context.system_properties["model_dir"]) / MODEL_FOLDER)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, Any]]:
        """Answer a batch of requests, those with the same options together.

        Args:
            data: one entry a request, its content under ``body``.
            context: TorchServe's ``Context``, which takes status and content type of each response.
        """
        answers: dict[int, dict[str, Any]] = {}
        alike: dict[str, dict[int, InstancesRequest[Any]]] = defaultdict(dict)  # by options, then by place in the batch
        for place, row in enumerate(data):
            context.set_response_content_type(place, "application/json")
            try:
                request = _request(row, self.recommender.text_ids)
                alike[request.options()][place] = request
            except InvalidRequestError as error:
                answers[place] = _refusal(error, place, context)
        for requests in alike.values():
            try:
                answers |= zip(requests, answer_instances(self.recommender, list(requests.values())), strict=True)
            except GenrecError as error:
                answers |= {place: _refusal(error, place, context) for place in requests}
        return [answers[place] for place in range(len(data))]


def _request(row: dict[str, Any], text_ids: bool) -> InstancesRequest[Any]:
    if "body" not in row:
        reason = "no JSON body; send one with the header Content-Type: application/json"
        raise InvalidRequestError([{"field": "request", "reason": reason}])
    return read_instances(row["body"], text_ids)


def _refusal(error: GenrecError, place: int, context: Any) -> dict[str, Any]:
    """``{"code": 400, "type": ..., "message": ..., "faults": ...}``: TorchServe's own form, and the faulty fields."""
    context.set_response_status(_BAD_REQUEST, "Bad Request", place)
    faults = error.faults if isinstance(error, InvalidRequestError) else []
    return {"code": _BAD_REQUEST, "type": "InvalidRequest", "message": str(error), "faults": faults}
