"""Turns an exported model folder into one whose graphs multiply int8 matrices, if its lists stay as good.

Weights are rounded once, a scale a column; what they are multiplied with is rounded by the range that it has for some
users, so that a list does not depend on who is ranked together. The result is a model folder like any other. The dense
head's keys stay in fp32 in their file, since items may be added to them; they and its queries, a scale a row, are
rounded when they are used.
"""

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

from genrec_core.bundle.model_folder import CODES, ITEM_KEYS, ITEM_VECTORS, WITHDRAWN
from genrec_core.bundle.onnx_scorer import ENCODER, SETTINGS, OnnxScorer, step_graph
from genrec_core.bundle.self_test import write_self_test
from genrec_core.data.histories import Histories
from genrec_core.data.split import validation_part
from genrec_core.errors import GenrecError
from genrec_core.graphs import read_array
from genrec_core.recommend.recommender import Recommender
from genrec_core.settings import ExportSettings, RankingMode
from genrec_core.storage.artifacts import MANIFEST, atomic_folder, read_json, write_json, write_manifest

REPORT = "quantization.json"
TOP_K, BATCH_USERS = 10, 64
_SMALLEST_SIDE = 32  # of a matrix that is worth rounding; smaller ones sum heads
Inputs = dict[str, np.ndarray]  # of one call of a graph
_OBSERVED = 128  # users whose ranges are taken
_OBSERVED_ITEMS = 100  # asked for each of them


@dataclass(frozen=True)
class Requests:
    """Validation users.

    Args:
        histories: item ids of each, oldest first.
        targets: the item id that each bought next.
    """

    histories: list[list[int]]
    targets: list[int]

    @classmethod
    def of_validation(cls, histories: Histories, item_ids: np.ndarray, users: int, seed: int = 7) -> "Requests":
        """Some users' last item but one and what came before it; the test items stay unread.

        Args:
            histories: whole histories.
            item_ids: what their rows stand for, int64 [n_items].
            users: how many to draw, or all where there are fewer.
            seed: of the draw.
        """
        every = validation_part(histories)
        drawn = np.random.default_rng(seed).permutation(len(every.targets))[:users]
        held_out = every.take(np.sort(drawn))
        read = [item_ids[held_out.histories.of(user)].tolist() for user in range(len(held_out.targets))]
        return cls(read, item_ids[held_out.targets].tolist())


@dataclass(frozen=True)
class Agreement:
    """One ranking before and after.

    Args:
        recall_fp32: Recall@10 before.
        recall_int8: the same after.
        overlap: mean share of the first ten items that stay among them.
        speed_ratio: users a second after, over those before; all of them ranked in turns, batch by batch.
    """

    recall_fp32: float
    recall_int8: float
    overlap: float
    speed_ratio: float


@dataclass(frozen=True)
class QuantizationReport:
    """What ``quantization.json`` holds.

    Args:
        users: validation users that were ranked.
        rankings: by mode.
        method: how the graphs were made.
    """

    users: int
    rankings: dict[RankingMode, Agreement]
    method: str = field(default=f"static int8, weights of 7 bits, a scale a column, ranges of {_OBSERVED} users")

    def lines(self) -> list[str]:
        """A line a ranking, to be read."""
        return [
            f"{mode}: Recall@10 {found.recall_fp32:.4f} in fp32, {found.recall_int8:.4f} in int8; "
            f"{found.overlap:.1%} of the first ten stay; {found.speed_ratio:.2f} times the users a second"
            for mode, found in self.rankings.items()
        ]


def quantize_recommender(
    model_dir: Path,
    target: Path,
    requests: Requests,
    *,
    largest_loss: float = ExportSettings().largest_loss,
    threads: int = 1,
) -> QuantizationReport:
    """Write ``target``, which appears whole or not at all.

    Args:
        model_dir: an exported model in fp32.
        target: the folder to write, replaced if it is there; may be ``model_dir``.
        requests: validation users, whose lists say whether the result is as good.
        largest_loss: of Recall@10, as a share of it, that any ranking may have.
        threads: CPU threads inside an operator in the comparison.

    Raises:
        GenrecError: a ranking loses more, or the model is quantised already.
    """
    if (model_dir / REPORT).is_file():
        raise GenrecError(f"{model_dir}: quantised already; give the model in fp32")
    exact = Recommender.from_folder(model_dir, threads=threads)
    with atomic_folder(target) as part:
        shutil.copytree(model_dir, part, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        for name, inputs in _observed(model_dir, requests.histories[:_OBSERVED]).items():
            quantize_graph(part / name, inputs or None)  # a level where no code branches is asked for nothing
        write_json(part / SETTINGS, {**read_json(part / SETTINGS), "int8": True})
        items, keys, codes = (read_array(part / name) for name in (ITEM_VECTORS, ITEM_KEYS, CODES))
        write_self_test(part, OnnxScorer(part, items, keys), codes)
        write_manifest(part, unlisted=WITHDRAWN)
        report = compare(exact, Recommender.from_folder(part, threads=threads), requests)
        _require_as_good(report, largest_loss, model_dir)
        write_json(part / REPORT, asdict(report))
        write_manifest(part, unlisted=WITHDRAWN)
    return report


class _Observer:
    """A session that notes what it is given."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.session, self.inputs = session, list[Inputs]()

    def run(self, outputs: list[str], inputs: Inputs) -> list[Any]:
        self.inputs.append({name: array.copy() for name, array in inputs.items()})
        return list(self.session.run(outputs, inputs))


def _observed(model_dir: Path, histories: list[list[int]]) -> dict[str, list[Inputs]]:
    """What each graph is given when some users are ranked, by its file's name."""
    recommender = Recommender.from_folder(model_dir)
    scorer = recommender.scorer
    assert isinstance(scorer, OnnxScorer)
    observers = [_Observer(session) for session in (scorer.encoder, *scorer.steps)]
    scorer.encoder, scorer.steps = observers[0], observers[1:]
    for history in histories:
        recommender.recommend([history], min(_OBSERVED_ITEMS, len(recommender.item_ids)), ranking="generative")
    names = [ENCODER, *(step_graph(level) for level in range(1, len(observers)))]
    return dict(zip(names, (observer.inputs for observer in observers), strict=True))


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Hands the quantiser one call's inputs after the other."""

    def __init__(self, inputs: list[Inputs]) -> None:
        self.left = iter(inputs)

    def get_next(self) -> Inputs | None:
        return next(self.left, None)


def quantize_graph(path: Path, inputs: list[Inputs] | None = None) -> None:
    """Round a graph's weight matrices to 7 bits, in place; products of two computed matrices stay as they are.

    With 8 bits, sums of two products with uint8 exceed the 16 bits in which processors without VNNI keep them.

    Args:
        path: the graph.
        inputs: of some calls, one at least, by name: the other factors are rounded by the ranges that they have there;
            None: by their range in each call.
    """
    model = onnx.load(path)
    _drop_leading_ones(model)
    onnx.save(model, path)
    given: dict[str, Any] = {
        "per_channel": True,
        "reduce_range": True,
        "weight_type": QuantType.QInt8,
        "nodes_to_exclude": _to_be_kept(model),
    }
    if inputs is None:
        quantize_dynamic(path, path, op_types_to_quantize=["MatMul"], **given)  # Gemm becomes MatMul and Add on the way
        return
    operators = ["MatMul", "Gemm"]
    given["activation_type"] = QuantType.QUInt8  # times int8: what processors have instructions for
    given["extra_options"] = {"OpTypesToExcludeOutputQuantization": operators}
    with _without_advice():
        quantize_static(path, path, _Reader(inputs), op_types_to_quantize=operators, **given)


@contextmanager
def _without_advice() -> Iterator[None]:
    """The quantiser advises a preparation that these graphs do not need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def compare(exact: Recommender, rounded: Recommender, requests: Requests) -> QuantizationReport:
    """Rank the validation users with both, in turns."""
    rankings = {mode: _agreement(exact, rounded, requests, mode) for mode in exact.weights.modes()}
    return QuantizationReport(len(requests.targets), rankings)


def _agreement(exact: Recommender, rounded: Recommender, requests: Requests, mode: RankingMode) -> Agreement:
    found: list[list[np.ndarray]] = [[], []]
    seconds = [0.0, 0.0]
    for first in range(0, len(requests.targets), BATCH_USERS):
        batch = requests.histories[first : first + BATCH_USERS]
        for which, recommender in enumerate((exact, rounded)):
            began = time.perf_counter()
            lists = recommender.recommend(batch, TOP_K, ranking=mode)
            seconds[which] += time.perf_counter() - began
            found[which] += lists
    shared = [len(np.intersect1d(ours, theirs)) / max(len(theirs), 1) for theirs, ours in zip(*found, strict=True)]
    before, after = (_recall(lists, requests.targets) for lists in found)
    return Agreement(before, after, float(np.mean(shared)), round(seconds[0] / seconds[1], 3))


def _recall(lists: Sequence[np.ndarray], targets: Sequence[int]) -> float:
    return float(np.mean([target in found for found, target in zip(lists, targets, strict=True)]))


def _require_as_good(report: QuantizationReport, largest_loss: float, model_dir: Path) -> None:
    for mode, found in report.rankings.items():
        if found.recall_int8 < (1 - largest_loss) * found.recall_fp32:
            raise GenrecError(
                f"{model_dir}: in int8 Recall@10 of {mode} falls from {found.recall_fp32:.4f} to "
                f"{found.recall_int8:.4f} on {report.users} validation users, more than {largest_loss:.1%}; "
                "keep the model in fp32"
            )


def _drop_leading_ones(model: ModelProto) -> None:
    """Make matrices of weights [1, in, out] plain ones, whose columns can have scales of their own."""
    weights = {weight.name: weight for weight in model.graph.initializer}
    for node in model.graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is not None and len(weight.dims) == 3 and weight.dims[0] == 1:
            plain = np.ascontiguousarray(numpy_helper.to_array(weight)[0])
            weight.CopyFrom(numpy_helper.from_array(plain, weight.name))


def _to_be_kept(model: ModelProto) -> list[str]:
    """Names of the products that stay as they are: of computed matrices, of stacks of them, of small ones."""
    sides = {weight.name: list(weight.dims) for weight in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm")
        and (len(sides.get(node.input[1], [])) != 2 or min(sides[node.input[1]]) < _SMALLEST_SIDE)
    ]
