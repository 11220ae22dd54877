"""``fit`` gives the model of the asset graph on the same data and settings, and goes on where it stopped."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import genrec_core
from genrec_core import GenrecError, Recommender, fit
from genrec_core.cli.main import main
from genrec_core.data.sources import load_tables
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.storage.artifacts import FRAME, read_json
from genrec_core.storage.folders import latest
from tests.dagster.conftest import FinishedGraph, run_config

PARTS = {"semantic_ids": "semantic_ids", "training": "tiger_checkpoint", "evaluation": "recall_metrics"}
ASSETS = (
    *("raw_beauty", "item_catalog", "user_histories", "item_embeddings", "semantic_ids", "tiger_checkpoint"),
    *("recall_metrics", "onnx_encoder"),
)


@dataclass
class Fitted:
    """A finished ``fit`` on the data and with the settings of the finished graph."""

    folder: Path
    raw: Path
    settings: dict[str, dict[str, Any]]
    recommender: Recommender

    def again(self, folder: Path, **changed: Any) -> list[str]:
        """Fit with some training settings changed; the lines said."""
        lines: list[str] = []
        settings = self.settings | {"training": self.settings["training"] | changed}
        fit(self.raw, preset="sample", folder=folder, settings=settings, on_progress=lines.append)
        return lines


@pytest.fixture(scope="module")
def fitted(finished_graph: FinishedGraph, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    ops = run_config(finished_graph.raw)["ops"]
    settings = {part: ops[asset]["config"] for part, asset in PARTS.items()}
    folder = tmp_path_factory.mktemp("fit")
    recommender = fit(str(finished_graph.raw), preset="sample", folder=folder, settings=settings)
    return Fitted(folder, finished_graph.raw, settings, recommender)


def numbers(value: Any) -> Any:
    """The metrics without what names a place or a time."""
    if isinstance(value, dict):
        return {name: numbers(each) for name, each in value.items() if "seconds" not in name and name != "seeds"}
    return [numbers(each) for each in value] if isinstance(value, list) else value


def test_fit_gives_the_codes_and_the_metrics_of_the_graph(finished_graph: FinishedGraph, fitted: Fitted) -> None:
    ours, theirs = (SemanticIds.load(latest("semantic_ids", root)) for root in (fitted.folder, finished_graph.storage))
    assert np.array_equal(ours.codes, theirs.codes)
    assert ours.item_ids.tolist() == theirs.item_ids.tolist()
    metrics = [
        numbers(read_json(latest("recall_metrics", root) / "beauty_metrics.json"))
        for root in (fitted.folder, finished_graph.storage)
    ]
    for ranking in ("generative", "dense", "hybrid", "popularity"):
        for name, value in metrics[1][ranking].items():
            assert metrics[0][ranking][name] == pytest.approx(value, abs=1e-6), (ranking, name)
    assert metrics[0]["settings"] == metrics[1]["settings"]
    assert (latest("recall_metrics", fitted.folder) / "report.html").is_file()


def test_the_model_of_fit_recommends_as_that_of_the_graph(finished_graph: FinishedGraph, fitted: Fitted) -> None:
    graph = Recommender.open(finished_graph.storage / "onnx_encoder")
    histories = [graph.item_ids[first : first + 4].tolist() for first in range(0, 40, 4)]
    for ours, theirs in zip(fitted.recommender.recommend(histories), graph.recommend(histories), strict=True):
        assert ours.tolist() == theirs.tolist()


def test_a_second_call_repeats_nothing(fitted: Fitted) -> None:
    lines = fitted.again(fitted.folder)
    assert [line for line in lines if line.endswith("there already")] == [f"{name} is there already" for name in ASSETS]
    assert not [line for line in lines if line.endswith(" ...")]


def test_other_settings_repeat_only_what_follows_from_them(fitted: Fitted) -> None:
    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        if line == "tiger_checkpoint ...":
            raise InterruptedError

    settings = fitted.settings | {"training": fitted.settings["training"] | {"seed": 7}}
    with pytest.raises(InterruptedError):
        fit(fitted.raw, preset="sample", folder=fitted.folder, settings=settings, on_progress=stop)
    assert [line for line in lines if line.endswith(" ...")] == ["tiger_checkpoint ..."]


def test_a_training_that_fails_says_why(fitted: Fitted) -> None:
    with pytest.raises(GenrecError, match=r"rank 0 of the training failed: .*heads"):
        fitted.again(fitted.folder, heads=3)


@pytest.mark.slow
def test_a_training_that_was_cut_off_goes_on_and_ends_as_an_unbroken_one(fitted: Fitted) -> None:
    unbroken = read_json(latest("tiger_checkpoint", fitted.folder) / "training_history.json")
    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        if "epoch 2/4" in line:
            raise InterruptedError

    settings = fitted.settings | {"training": fitted.settings["training"] | {"epochs": 4}}
    with pytest.raises(InterruptedError):
        fit(fitted.raw, preset="sample", folder=fitted.folder, settings=settings, on_progress=stop)
    again = fitted.again(fitted.folder, epochs=4)
    assert not [line for line in again if "epoch 1/4" in line]
    assert [line for line in again if "epoch 4/4" in line]
    assert len(unbroken["epochs"]) == 3


@pytest.mark.slow
def test_with_refit_the_opened_model_was_trained_on_all_interactions(fitted: Fitted) -> None:
    lines: list[str] = []
    settings = fitted.settings | {"release": {"refit": True}}
    recommender = fit(fitted.raw, preset="sample", folder=fitted.folder, settings=settings, on_progress=lines.append)
    assert [line for line in lines if line.endswith(" ...")] == ["onnx_encoder ..."]
    (started,) = (line for line in lines if "start: targets" in line)
    lengths = pl.read_parquet(latest("user_histories", fitted.folder) / FRAME)["item_ids"].list.len()
    targets = int(started.partition("targets ")[2].partition(", ")[0].replace(",", ""))
    assert targets == (lengths - 1).sum()  # each item but a user's first, also the held-out ones
    export = latest("onnx_encoder", fitted.folder)
    assert (export / "measured").is_dir()
    assert (export / "model").is_dir()
    assert len(recommender.recommend([[35, 12]], 5)[0]) == 5


def python_of_readme() -> list[str]:
    """The blocks of Python in the library's guide."""
    guide = Path(genrec_core.__file__).with_name("README.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", guide, re.DOTALL)


@pytest.fixture
def shop(fitted: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder that the guide's examples expect: two tables, and a fitted model in ``shop``."""
    monkeypatch.chdir(tmp_path)
    items, histories = load_tables(latest("raw_beauty", fitted.folder))
    histories.select("user_id", pl.col("item_ids").alias("item_id")).explode("item_id").write_csv("interactions.csv")
    items.select("item_id", "title", "brand", "price").write_csv("items.csv")
    (tmp_path / "shop").symlink_to(fitted.folder)
    return tmp_path


def test_the_guides_examples_of_a_model_run(shop: Path) -> None:
    names: dict[str, Any] = {}
    exec(python_of_readme()[1], names)
    assert (names["lists"]["rank"] <= 5).all()
    assert "title" in names["lists"].columns


@pytest.mark.slow
def test_the_guides_example_of_a_training_runs(shop: Path) -> None:
    (shop / "shop").unlink()
    names: dict[str, Any] = {}
    exec(python_of_readme()[0], names)
    assert len(names["recommender"].recommend([[35, 12]], 5)[0]) == 5


def test_the_commands_work_on_the_folder(
    fitted: Fitted, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("GENREC_STORAGE", str(fitted.folder))
    assert main(["evaluate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["users"] == 200
    (tmp_path / "requests.txt").write_text("17 1 2 9\n")
    paths = ["--input_path", str(tmp_path / "requests.txt"), "--output_path", str(tmp_path / "out.csv"), "--quiet"]
    assert main(["predict", *paths, "--topk", "3", "--model_dir", str(fitted.folder / "onnx_encoder")]) == 0
    assert (tmp_path / "out.csv").read_text().startswith("user_id,pred_1,pred_2,pred_3\n17,")
