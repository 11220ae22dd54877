"""Turns an exported model folder into one whose graphs multiply int8 matrices, if its lists stay as good.

Weights are rounded once, with a scale for each column. The other factors are rounded by the ranges that they have for
some users, so that a list does not depend on the other users of a batch. The result is a model folder like any other.
The file of the item keys stays in fp32, as items may be added to it; keys are rounded when the model is opened.
"""

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from genrec_core.bundle.model_folder import ENCODER, ITEM_LOGITS, REPORT, WITHDRAWN, ModelFolder, step_graph
from genrec_core.bundle.onnx_scorer import OnnxScorer, write_self_test
from genrec_core.data.histories import Histories
from genrec_core.data.ids import AnyId
from genrec_core.data.split import validation_part
from genrec_core.errors import GenrecError
from genrec_core.export.onnx import write_item_logits
from genrec_core.graph_export import Inputs, quantize_graph
from genrec_core.recommend.recommender import Recommender
from genrec_core.settings import ExportSettings, RankingMode
from genrec_core.storage.artifacts import atomic_folder, write_json, write_manifest

_SEED = 7  # of the draw of validation users
_OBSERVED_USERS, _OBSERVED_ITEMS = 128, 100  # users whose ranges are taken, and the length of their lists


@dataclass(frozen=True)
class ValidationUsers:
    """Validation items by whose places in the lists the model in int8 is judged."""

    histories: list[list[AnyId]]  # item ids before each, oldest first
    targets: list[AnyId]  # the item id that the user bought next

    @classmethod
    def of_validation(cls, histories: Histories, item_ids: np.ndarray, users: int) -> "ValidationUsers":
        """Draw at most ``users`` users; ``item_ids`` [n_items] are the ids of the rows."""
        held_out = validation_part(histories, users, _SEED)
        read = [item_ids[held_out.histories.of(number)].tolist() for number in range(len(held_out.targets))]
        return cls(read, item_ids[held_out.targets].tolist())


@dataclass(frozen=True)
class Agreement:
    """One ranking in fp32 and in int8."""

    recall_fp32: float  # Recall@10
    recall_int8: float


@dataclass(frozen=True)
class QuantizationReport:
    """What ``quantization.json`` holds."""

    targets: int  # validation items that were ranked
    rankings: dict[RankingMode, Agreement]
    method: str = f"static int8, weights of 7 bits, a scale a column, ranges of {_OBSERVED_USERS} users"

    def lines(self) -> list[str]:
        """A line for each ranking, for people."""
        return [
            f"{mode}: Recall@10 {ranking.recall_fp32:.4f} in fp32, {ranking.recall_int8:.4f} in int8"
            for mode, ranking in self.rankings.items()
        ]


def quantize_recommender(
    model_dir: Path,
    target: Path,
    users: ValidationUsers,
    *,
    largest_loss: float = ExportSettings().largest_loss,
) -> QuantizationReport:
    """Write ``target``, which appears whole or not at all.

    Args:
        model_dir: an exported model in fp32.
        target: the folder to write, replaced if it is there; may be ``model_dir``.
        largest_loss: the share of its Recall@10 that any ranking may lose.
    """
    if (model_dir / REPORT).is_file():
        raise GenrecError(f"{model_dir}: quantised already; give the model in fp32")
    exact = Recommender.open(model_dir)
    with atomic_folder(target) as part:
        shutil.copytree(model_dir, part, dirs_exist_ok=True)
        for name, inputs in _observed_inputs(model_dir, users.histories[:_OBSERVED_USERS]).items():
            quantize_graph(part / name, inputs or None)  # a level where no code branches was never called
        write_item_logits(part / ITEM_LOGITS, int8=True)
        folder = ModelFolder(part)
        folder.save_settings(replace(folder.settings, int8=True))
        write_self_test(part)
        write_manifest(part, unlisted=WITHDRAWN)
        rounded = Recommender.open(part)
        recalls = ((mode, _recall(exact, users, mode), _recall(rounded, users, mode)) for mode in exact.weights.modes())
        rankings = {mode: Agreement(fp32, int8) for mode, fp32, int8 in recalls}
        report = QuantizationReport(len(users.targets), rankings)
        _require_as_good(report, largest_loss, model_dir)
        write_json(part / REPORT, asdict(report))
        write_manifest(part, unlisted=WITHDRAWN)
    return report


class _Observer:
    """A session that keeps the inputs of its calls."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.session, self.inputs = session, list[Inputs]()

    def run(self, outputs: list[str], inputs: Inputs) -> list[Any]:
        self.inputs.append({name: array.copy() for name, array in inputs.items()})
        return list(self.session.run(outputs, inputs))


def _observed_inputs(model_dir: Path, histories: list[list[AnyId]]) -> dict[str, list[Inputs]]:
    """The inputs of each graph when some users are ranked, by the graph's file name."""
    recommender = Recommender.open(model_dir)
    scorer = recommender.scorer
    assert isinstance(scorer, OnnxScorer)
    observers = [_Observer(session) for session in (scorer.encoder, *scorer.steps)]
    scorer.encoder, scorer.steps = observers[0], observers[1:]
    for history in histories:
        recommender.recommend([history], min(_OBSERVED_ITEMS, len(recommender.item_ids)), ranking="generative")
    names = [ENCODER, *(step_graph(level) for level in range(1, len(observers)))]
    return dict(zip(names, (observer.inputs for observer in observers), strict=True))


def _recall(recommender: Recommender, users: ValidationUsers, mode: RankingMode) -> float:
    lists = recommender.recommend(users.histories, 10, ranking=mode)
    return float(np.mean([target in items for items, target in zip(lists, users.targets, strict=True)]))


def _require_as_good(report: QuantizationReport, largest_loss: float, model_dir: Path) -> None:
    for mode, ranking in report.rankings.items():
        if ranking.recall_int8 < (1 - largest_loss) * ranking.recall_fp32:
            raise GenrecError(
                f"{model_dir}: in int8 Recall@10 of {mode} falls from {ranking.recall_fp32:.4f} to "
                f"{ranking.recall_int8:.4f} on {report.targets} validation items, more than {largest_loss:.1%}; "
                "keep the model in fp32"
            )
