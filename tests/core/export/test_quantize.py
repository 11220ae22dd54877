"""A quantised model folder ranks nearly as before, and a model that loses by it is left as it is."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import polars as pl
import pytest

from genrec_core.bundle.model_folder import ENCODER, REPORT, ModelFolder, step_graph
from genrec_core.cli.main import main
from genrec_core.data.histories import Histories
from genrec_core.errors import GenrecError
from genrec_core.export import quantize
from genrec_core.export.quantize import ValidationUsers, quantize_recommender
from genrec_core.recommend.recommender import Recommender
from genrec_core.storage.artifacts import read_json, verify_manifest

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel


@pytest.fixture(scope="module")
def validation_users(tiny_recommender: Recommender) -> ValidationUsers:
    """Users whose next item is the one that the model in fp32 would recommend first."""
    random = np.random.default_rng(2)
    histories = [random.choice(tiny_recommender.item_ids, random.integers(1, 12)).tolist() for _ in range(60)]
    return ValidationUsers(histories, [int(found[0]) for found in tiny_recommender.recommend(histories, 1)])


@pytest.fixture(scope="module")
def quantized(
    tiny_model: "TinyModel", validation_users: ValidationUsers, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("quantized") / "int8"
    quantize_recommender(tiny_model.model_dir, folder, validation_users, largest_loss=0.1)
    return folder


def test_the_graphs_multiply_integers_and_are_smaller(tiny_model: "TinyModel", quantized: Path) -> None:
    verify_manifest(quantized)
    for name in (ENCODER, step_graph(1)):
        operators = [node.op_type for node in onnx.load(quantized / name).graph.node]
        assert {"QuantizeLinear", "DequantizeLinear"} <= set(operators)  # which onnxruntime makes integer products of
        assert (quantized / name).stat().st_size < (tiny_model.model_dir / name).stat().st_size


def test_the_lists_stay_nearly_the_same(
    tiny_recommender: Recommender, quantized: Path, validation_users: ValidationUsers
) -> None:
    report = read_json(quantized / REPORT)
    assert report["targets"] == 60
    assert set(report["rankings"]) == set(tiny_recommender.weights.modes())
    for found in report["rankings"].values():
        assert found["recall_int8"] > 0.9 * found["recall_fp32"] > 0
    models = (tiny_recommender, Recommender.open(quantized))
    rankings = [model.rank(validation_users.histories, 10) for model in models]
    shared = [len(np.intersect1d(*(ranking.of(user) for ranking in rankings))) for user in range(60)]
    assert np.mean(shared) > 8
    before, after = (ranking.scores for ranking in rankings)
    assert 0 < np.abs(before - after).max() < 0.2 * np.ptp(before)


def test_a_list_does_not_depend_on_who_is_ranked_together(quantized: Path, validation_users: ValidationUsers) -> None:
    recommender = Recommender.open(quantized)
    together = recommender.rank(validation_users.histories, 10)
    alone = np.concatenate([recommender.rank([history], 10).scores for history in validation_users.histories])
    # Where errors of rounding in fp32 move a number over the edge between two steps of int8, a score moves by a trifle.
    difference = np.abs(alone - together.scores)
    assert difference.max() < 0.01
    assert (difference < 1e-5).mean() > 0.5


def test_a_level_that_no_user_is_asked_for_is_rounded_too(
    tiny_model: "TinyModel", validation_users: ValidationUsers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = quantize._observed_inputs
    monkeypatch.setattr(quantize, "_observed_inputs", lambda *given: {**every(*given), step_graph(1): []})
    quantize_recommender(tiny_model.model_dir, tmp_path / "int8", validation_users, largest_loss=0.1)
    operators = {node.op_type for node in onnx.load(tmp_path / "int8" / step_graph(1)).graph.node}
    assert "DynamicQuantizeLinear" in operators


def test_a_model_that_loses_recall_is_refused_and_nothing_is_written(
    tiny_model: "TinyModel", validation_users: ValidationUsers, tmp_path: Path
) -> None:
    wanted = r"Recall@10 of \w+ falls from .* keep the model in fp32"
    with pytest.raises(GenrecError, match=wanted):
        quantize_recommender(tiny_model.model_dir, tmp_path / "int8", validation_users, largest_loss=-2)
    assert not list(tmp_path.iterdir())


def test_withdrawn_items_stay_withdrawn_and_can_be_restored(
    tiny_model: "TinyModel", validation_users: ValidationUsers, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model.model_dir, tmp_path / "model")
    gone = Recommender.open(folder).item_ids[:3]
    ModelFolder(folder).withdraw(gone)
    quantize_recommender(folder, folder, validation_users, largest_loss=1)
    assert not np.isin(np.concatenate(Recommender.open(folder).recommend(validation_users.histories, 50)), gone).any()
    assert ModelFolder(folder).withdraw(gone, restore=True).withdrawn == 0
    Recommender.open(folder)


def test_a_quantised_model_is_not_quantised_again(quantized: Path, validation_users: ValidationUsers) -> None:
    with pytest.raises(GenrecError, match="quantised already"):
        quantize_recommender(quantized, quantized, validation_users)


def test_the_users_who_decide_are_validation_users() -> None:
    frame = pl.DataFrame({"user_id": ["a", "b", "c"], "item_ids": [[5, 6, 7, 9], [9, 6], [6, 9, 5]]})
    item_ids = np.array([5, 6, 7, 9])
    found = ValidationUsers.of_validation(Histories.from_frame(frame, item_ids), item_ids, users=10)
    assert found.histories == [[5, 6], [6]]
    assert found.targets == [7, 9]


def test_export_int8_quantises_what_was_exported(
    tiny_model: "TinyModel",
    validation_users: ValidationUsers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(  # the export itself has its own tests, and takes long
        "genrec_core.export.onnx.export_recommender",
        lambda *arguments, **stored: shutil.copytree(tiny_model.model_dir, arguments[4]),
    )
    rows = [
        [*read, bought, read[0]]
        for read, bought in zip(validation_users.histories, validation_users.targets, strict=True)
    ]
    users = pl.DataFrame({"user_id": [str(user) for user in range(len(rows))], "item_ids": rows})
    users.write_parquet(tmp_path / "users.parquet")
    inputs = ["--semantic_ids", str(tiny_model.semantic_ids), "--embeddings", str(tiny_model.embeddings)]
    inputs += ["--histories", str(tmp_path / "users.parquet"), "--checkpoint", str(tiny_model.checkpoint)]
    assert main(["export", "--int8", "--users", "20", *inputs, "--output", str(tmp_path / "model")]) == 0
    assert "hybrid: Recall@10 1.0000 in fp32, 1.0000 in int8" in capsys.readouterr().err
    assert read_json(tmp_path / "model" / REPORT)["targets"] == 20
