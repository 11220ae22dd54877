"""SASRec and BSARec learn, resume, and are measured like every other model."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
import torch

from genrec_core.cli.main import main
from genrec_core.data.histories import padded
from genrec_core.embedding.item_embeddings import write_item_embeddings
from genrec_core.errors import GenrecError
from genrec_core.evaluation.evaluate import open_checkpoint
from genrec_core.sasrec.bsarec import MODELS, TRAINERS, BsaRecConfig, BsaRecModel, FrequencyFilter
from genrec_core.sasrec.model import SasRecModel
from genrec_core.search.generative import beam_search
from genrec_core.search.trie import CodeTrie
from genrec_core.settings import TrainingSettings
from genrec_core.tiger.training import train
from tests.core.tiger.test_training import ALONE, ITEMS, cyclic_data

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel

CODES, VECTORS = cyclic_data().codes, cyclic_data().vectors
SETTINGS = TrainingSettings(
    d_model=32, heads=2, d_ff=64, dropout=0.1, epochs=40, max_history=10, batch_targets=64, learning_rate=5e-3,
    future_share=0.0, label_smoothing=0.0, validation_users=30,
)  # fmt: skip


@pytest.fixture(scope="module", params=TRAINERS.values(), ids=list(TRAINERS))
def best(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(cyclic_data(), SETTINGS, tmp_path_factory.mktemp("baseline"), ALONE, trainer=request.param)


def test_it_learns_what_follows(best: Path):
    scorer, _, weights = open_checkpoint(best, CODES, VECTORS)
    assert weights.modes() == ("dense",)
    histories = padded([np.array([3, 4, 5], np.int32), np.array([38, 39], np.int32)], 10)
    trie = CodeTrie.build(CODES, (8, 8, 2))
    ranked = beam_search(scorer, trie, histories, beams=3, top_k=1, excluded=histories.rows, dense_weight=1.0)
    assert ranked.items[:, 0].tolist() == [6, 0]


@pytest.mark.parametrize("kind", MODELS.values(), ids=list(MODELS))
def test_a_position_sees_nothing_that_comes_after_it(kind: type[SasRecModel]):
    torch.manual_seed(0)
    model = kind(kind.config_class(n_items=ITEMS, d_model=16, heads=2, d_ff=16, max_history=8)).eval()
    rows = torch.arange(6).unsqueeze(0)
    changed = torch.tensor([[0, 1, 2, 30, 31, 32]])
    before, after = (model.queries(inputs, torch.ones_like(inputs, dtype=torch.bool)) for inputs in (rows, changed))
    torch.testing.assert_close(before[:3], after[:3])
    assert not torch.allclose(before[3:], after[3:])


def test_padding_before_and_after_a_history_changes_no_prediction_of_bsarec():
    torch.manual_seed(0)
    model = BsaRecModel(BsaRecConfig(n_items=ITEMS, d_model=16, heads=2, d_ff=16, max_history=8)).eval()
    alone = model.queries(torch.tensor([[3, 4]]), torch.tensor([[False, True]]))
    rows = torch.tensor([[3, 4, 0, 0], [1, 2, 3, 4]])
    beside = model.queries(rows, torch.tensor([[False, True, False, False], [False, False, False, True]]))
    torch.testing.assert_close(beside[:1], alone)


def test_the_filter_keeps_what_is_slow_and_scales_the_rest():
    config = BsaRecConfig(d_model=1, heads=1, max_history=16, low_frequencies=2)
    layer = FrequencyFilter(config)
    layer.root.data.fill_(3.0)
    steps = torch.arange(16) * 2 * torch.pi / 16
    slow, fast = 1 + steps.cos(), (5 * steps).sin()
    filtered = layer((slow + fast).reshape(1, 16, 1)).flatten()
    torch.testing.assert_close(filtered, slow + 9 * fast)


def test_it_generates_no_codes(best: Path):
    scorer = open_checkpoint(best, CODES, VECTORS)[0]
    with pytest.raises(GenrecError, match="SASRec generates no codes"):
        scorer.start(padded([np.array([1], np.int32)], 10)).first()


def test_a_checkpoint_of_another_catalogue_is_refused(best: Path):
    with pytest.raises(GenrecError, match="knows 40 items, but there are 39"):
        open_checkpoint(best, CODES[:-1], VECTORS[:-1])


def test_a_folder_of_tiger_is_not_taken_for_sasrec(best: Path):
    with pytest.raises(GenrecError, match="other settings or data"):
        train(cyclic_data(), SETTINGS, best.parent, ALONE)


def test_the_command_line_trains_and_measures_it_beside_tiger_on_either_split(
    tiny_model: "TinyModel", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    item_ids = np.load(tiny_model.model_dir / "item_ids.npy")
    random = np.random.default_rng(0)
    lists = [random.choice(item_ids, 6, replace=False).tolist() for _ in range(40)]
    histories = tmp_path / "histories.parquet"
    pl.DataFrame({"user_id": [str(user) for user in range(40)], "item_ids": lists}).write_parquet(histories)
    inputs = [
        "--semantic_ids", str(tiny_model.semantic_ids), "--embeddings", str(tiny_model.embeddings), "--histories",
        str(histories),
    ]  # fmt: skip
    output = tmp_path / "sasrec"
    assert main(["train", "--model", "sasrec", *inputs, "--epochs", "1", "--output", str(output)]) == 0
    capsys.readouterr()
    for checkpoint, ranking in ((output / "best", "dense"), (tiny_model.checkpoint, "hybrid")):
        for split in ("test", "validation"):
            arguments = ["evaluate", "--checkpoint", str(checkpoint), *inputs, "--split", split, "--json"]
            assert main(arguments) == 0
            metrics = json.loads(capsys.readouterr().out)
            assert (metrics["split"], metrics["ranking"], metrics["users"]) == (split, ranking, 40)
            assert ("generative" in metrics) == (ranking == "hybrid")
            assert "sasrec" not in metrics
    measured = tmp_path / "measured"
    arguments = ["evaluate", "--checkpoint", str(output / "best"), *inputs, "--output", str(measured)]
    assert main(arguments) == 0
    assert {path.name for path in measured.iterdir()} == {
        *("beauty_metrics.json", "report.html", "recall.png", "slices.png")
    }
    assert main(arguments) == 0  # an earlier evaluation is replaced
    (measured / "notes.txt").write_text("mine")
    capsys.readouterr()
    assert main(arguments) == 2
    assert "holds notes.txt, which is not a metrics file; name a new folder" in capsys.readouterr().err
    assert (measured / "notes.txt").read_text() == "mine"
    assert main([*arguments[:-1], "/proc/new"]) == 2
    shown = capsys.readouterr()
    assert "/proc/new: cannot be written" in shown.err
    assert "40 users" in shown.out  # what took minutes to measure is not lost

    arguments = ["evaluate", "--checkpoint", str(tiny_model.checkpoint), *inputs, "--split", "validation", "--json"]
    assert main([*arguments, "--baseline", str(output / "best")]) == 0
    metrics = json.loads(capsys.readouterr().out)
    difference = metrics["hybrid"]["recall@10"] - metrics["sasrec"]["recall@10"]
    assert metrics["against"]["sasrec"]["recall@10"]["difference"] == pytest.approx(difference)

    other = tmp_path / "other"
    write_item_embeddings(
        other, item_ids + 1, ["Title: x;"] * len(item_ids), np.ones((len(item_ids), 6), np.float32), "none", 1.0
    )
    inputs[3] = str(other)
    assert main(["evaluate", "--checkpoint", str(tiny_model.checkpoint), *inputs]) == 2
    assert "hold different items" in capsys.readouterr().err
