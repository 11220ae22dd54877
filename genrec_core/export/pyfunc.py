"""The recommender as an MLflow pyfunc model; MLflow calls :func:`_load_pyfunc` where the model is loaded.

A loader module and not a ``PythonModel`` object, which MLflow would pickle.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec_core.errors import GenrecError
from genrec_core.recommend.instances import MOST_INSTANCES, answer_instances, read_instances
from genrec_core.recommend.recommender import Recommender

if TYPE_CHECKING:
    import pandas as pd

_Answers = list[dict[str, Any]]


class PyfuncRecommender:
    """What ``mlflow.pyfunc.load_model`` wraps."""

    def __init__(self, recommender: Recommender) -> None:
        self.recommender = recommender

    def predict(self, model_input: "pd.DataFrame", params: dict[str, Any] | None = None) -> "_Answers | pd.DataFrame":
        """Rank the catalogue for users.

        Args:
            model_input: a row a user, with the columns ``user_id`` and ``item_ids``; or a row a request, with the
                columns ``instances``, ``topk`` and any other option of
                :class:`~genrec_core.recommend.instances.InstancesRequest`. MLflow makes such a frame of a request.
            params: options; ``topk`` must be here or in the request.

        Returns:
            A frame with the columns ``user_id`` and ``predictions``. Requests get a list of dicts with these keys.

        Raises:
            MlflowException: the input or an option is invalid; MLflow's server answers it with status 400.
        """
        from mlflow.exceptions import MlflowException

        options = {name: value for name, value in _plain(params or {}).items() if value not in (None, [])}
        try:
            answers = [answer for request in _requests(model_input, options) for answer in self._answer(request)]
        except GenrecError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        if "instances" in model_input.columns:
            return answers
        return model_input[["user_id"]].assign(predictions=[answer["predictions"] for answer in answers])

    def _answer(self, request: dict[str, Any]) -> _Answers:
        if "topk" not in request:
            raise GenrecError(
                'topk is missing; give {"inputs": {"topk": 4, "instances": [...]}} to a server (it drops a topk beside '
                "inputs), or params={'topk': 4} to predict"
            )
        (answer,) = answer_instances(self.recommender, [read_instances(request, self.recommender.text_ids)])
        return answer["predictions"]


def _requests(frame: "pd.DataFrame", options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The requests of a frame. Users are put together, as many as one request may hold."""
    rows = _plain(frame.to_dict("records"))
    if "instances" in frame.columns:
        for row in rows:  # pandas fills the cells of absent options with None or NaN
            yield {**options, **{name: cell for name, cell in row.items() if cell is not None and cell == cell}}
        return
    for first in range(0, len(rows), MOST_INSTANCES):
        yield {**options, "instances": rows[first : first + MOST_INSTANCES]}


def _plain(value: Any) -> Any:
    """``value`` in Python's own types: MLflow makes NumPy arrays and numbers of lists and integers."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return _plain(value.tolist()) if hasattr(value, "tolist") else value


def _load_pyfunc(data_path: str) -> PyfuncRecommender:
    """MLflow's loader interface: ``data_path`` is the model folder."""
    return PyfuncRecommender(Recommender.open(Path(data_path)))
