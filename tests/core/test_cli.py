"""The command line: what each command writes and prints, and what it says when it cannot."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from genrec_core.cli.evaluate import metrics_table
from genrec_core.cli.main import main
from genrec_core.data.sources import read_user_histories
from genrec_core.errors import GenrecError
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.recommend.recommender import Recommender
from genrec_core.releases.pointer import first_pointer, write_pointer
from genrec_core.settings import (
    PRESETS,
    EvaluationSettings,
    RendezvousSettings,
    ServingSettings,
    Settings,
    TrainingSettings,
)
from genrec_core.storage.artifacts import read_json, write_json
from genrec_core.storage.folders import set_latest

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel

FORBIDDEN = (
    *("torch", "transformers", "sentence_transformers", "onnx", "dagster", "mlflow", "matplotlib", "safetensors"),
    *("polars", "pandas"),
)
WITHOUT_TORCH = f"""
import sys
for name in {FORBIDDEN}:
    sys.modules[name] = None  # importing it raises ImportError
from genrec_core.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def _own_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_STORAGE", str(tmp_path / "storage"))


def requests_file(tmp_path: Path, recommender: Recommender) -> Path:
    path = tmp_path / "requests.txt"
    known = recommender.item_ids.tolist()
    path.write_text(f"1 {known[0]} {known[1]}\nbad x\n2\n3 {known[4]} -9\n")
    return path


def test_predict_needs_neither_torch_nor_dagster(
    tmp_path: Path, tiny_model: "TinyModel", tiny_recommender: Recommender
) -> None:
    source, output = requests_file(tmp_path, tiny_recommender), tmp_path / "out.csv"
    arguments = ["predict", "--input_path", str(source), "--output_path", str(output), "--topk", "5"]
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments, "--model_dir", str(tiny_model.model_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with output.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["user_id", "pred_1", "pred_2", "pred_3", "pred_4", "pred_5"]
    expected = tiny_recommender.recommend([[int(i) for i in tiny_recommender.item_ids[:2]]], 5)[0].tolist()
    assert rows[1] == ["1", *map(str, expected)]
    assert [row[0] for row in rows[1:]] == ["1", "2", "3"]
    for said in ("3 users served", "1 users have no known item", "1 malformed lines were not served", "users/s"):
        assert said in done.stderr
    assert Path(f"{output}.rejected").is_file()


def test_predict_takes_the_served_release_and_the_filters(
    tmp_path: Path, tiny_model: "TinyModel", tiny_recommender: Recommender
) -> None:
    for name in ("model_release/run-1", "served_release/run-2"):
        (tmp_path / "storage" / name).mkdir(parents=True)
    (tmp_path / "storage" / "model_release" / "run-1" / "model").symlink_to(tiny_model.model_dir)
    write_pointer(tmp_path / "storage" / "served_release" / "run-2", first_pointer("run-1", "a test"))
    set_latest("served_release", "run-2")
    allow, deny, output = tmp_path / "allow", tmp_path / "deny", tmp_path / "out.csv"
    allow.write_text("\n".join(map(str, tiny_recommender.item_ids[:6])))
    deny.write_text(str(tiny_recommender.item_ids[5]))
    arguments = ["--input_path", str(requests_file(tmp_path, tiny_recommender)), "--output_path", str(output)]
    filters = ["--allow", str(allow), "--deny", str(deny), "--keep_seen", "--threads", "1", "--quiet"]
    assert main(["predict", *arguments, "--topk", "5", *filters]) == 0
    with output.open(newline="") as file:
        for row in list(csv.reader(file))[1:]:
            assert sorted(map(int, row[1:])) == tiny_recommender.item_ids[:5].tolist()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "--input_path", "a", "--output_path", "b"], "no release is served yet"),
        (["predict", "--input_path", "a", "--output_path", "b", "--topk", "0"], "top_k=0"),
        (["predict", "--input_path", "a", "--output_path", "b", "--model_dir", "nowhere"], "nowhere"),
        (["evaluate"], "recall_metrics was never built"),
        (["evaluate", "--metrics_dir", "nowhere"], "nowhere/beauty_metrics.json: no such file"),
        (["evaluate", "--checkpoint", "x", "--beams", "many"], "beams=many"),
        (["train", "--output", "x", "--epochs", "0"], "epochs=0"),
        (["serve", "--port", "99999"], "port=99999"),
        (["train", "--output", "x", "--preset", "huge"], "preset huge: no such preset of tiger"),
        (["export", "--output", "x"], "semantic_ids was never built"),
        (["assign-ids", "--vectors", "v.npy", "--output", "x"], "--vectors and --item_ids belong together"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("genrec: error: ")
    assert shown.err.count("\n") == 1
    assert said in shown.err


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def needs_torch(*arguments: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("genrec_core.cli.evaluate._evaluate", needs_torch)
    assert main(["evaluate"]) == 2
    assert "torch is not installed; run pip install 'genrec[train]'" in capsys.readouterr().err


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("genrec_core.cli.evaluate._evaluate", interrupted)
    assert main(["evaluate"]) == 130


def test_help_is_fast() -> None:
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "genrec_core.cli", "--help"], capture_output=True, text=True, check=True
    )
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1.0
    for command in ("predict", "evaluate", "assign-ids", "sample", "train", "export", "serve"):
        assert command in done.stdout


def test_evaluate_prints_the_file_or_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {
        "generative": {"recall@10": 0.05, "recall@10_interval": [0.04, 0.06], "miss_share": 0.001},
        "hybrid": {"recall@10": 0.08},
        "hybrid_history_kept": {"recall@10": 0.04},
        "popularity": {"recall@10": 0.01},
        "users": 9,
        "beams": 20,
    }
    write_json(tmp_path / "beauty_metrics.json", metrics)
    assert main(["evaluate", "--metrics_dir", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == metrics
    assert main(["evaluate", "--metrics_dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == metrics_table(metrics) + "\n"
    seen = {"lists": "keep", "setting": "auto", "keep": 0.31, "exclude": 0.08}
    assert "recall@10, history_removed" in metrics_table({**metrics, "seen_items": seen})
    assert metrics_table({**metrics, "seen_items": seen}).endswith("finds 31 of 100 next items, the other way 8.")
    header, recall, misses, kept, users = metrics_table(metrics).splitlines()
    assert header.split() == ["test", "generative", "hybrid", "popularity"]
    assert recall.split() == ["recall@10", "0.0500", "0.0800", "0.0100"]
    assert misses.split() == ["miss_share", "0.0010"]
    assert kept.split() == ["recall@10,", "history_kept", "0.0400"]
    assert users == "9 users, 20 beams"


def test_assign_ids_adds_items_and_keeps_the_codes(
    tmp_path: Path, tiny_model: "TinyModel", capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32))
    (tmp_path / "ids.json").write_text("[5000, 4000]")
    given = ["--vectors", str(tmp_path / "vectors.npy"), "--item_ids", str(tmp_path / "ids.json")]
    folders = ["--semantic_ids", str(tiny_model.semantic_ids), "--output", str(tmp_path / "extended")]
    assert main(["assign-ids", *given, *folders]) == 0
    before, after = SemanticIds.load(tiny_model.semantic_ids), SemanticIds.load(tmp_path / "extended")
    np.testing.assert_array_equal(after.codes[:-2], before.codes)
    printed = [list(map(int, line.split())) for line in capsys.readouterr().out.splitlines()]
    assert printed == [[5000, *after.codes[-2].tolist()], [4000, *after.codes[-1].tolist()]]


def test_sample_writes_histories_that_training_can_read(tmp_path: Path) -> None:
    assert main(["sample", "--output", str(tmp_path), "--users", "50", "--items", "90"]) == 0
    assert read_user_histories(tmp_path).height == 50


@pytest.mark.parametrize("content", [b"no parquet", None])
def test_histories_that_are_none_are_refused(tmp_path: Path, content: bytes | None) -> None:
    if content:
        (tmp_path / "frame.parquet").write_bytes(content)
    else:
        pl.DataFrame({"user": ["1"], "item_ids": [[1]]}).write_parquet(tmp_path / "frame.parquet")
    with pytest.raises(GenrecError, match=r"frame\.parquet: not parquet with user_id"):
        read_user_histories(tmp_path)
    with pytest.raises(GenrecError, match="no user histories"):
        read_user_histories(tmp_path / "absent")


def test_train_and_export_work_without_dagster(
    tmp_path: Path, tiny_model: "TinyModel", monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = SemanticIds.load(tiny_model.semantic_ids).item_ids
    random = np.random.default_rng(2)
    frame = pl.DataFrame(
        {"user_id": [str(u) for u in range(30)], "item_ids": [random.choice(ids, 6) for _ in range(30)]}
    )
    frame.write_parquet(tmp_path / "histories.parquet")
    inputs = ["--semantic_ids", str(tiny_model.semantic_ids), "--embeddings", str(tiny_model.embeddings)]
    inputs += ["--histories", str(tmp_path / "histories.parquet")]
    small = ["--epochs=1", "--d_model=16", "--heads=2", "--d_ff=16", "--validation_users=5"]
    assert main(["train", *inputs, *small, "--output", str(tmp_path / "training")]) == 0
    assert len(read_json(tmp_path / "training" / "best" / "training_history.json")["epochs"]) == 1

    def keep_arguments(*arguments: object, **stored: object) -> None:
        exported.extend(arguments)

    exported: list[object] = []
    monkeypatch.setattr("genrec_core.export.onnx.export_recommender", keep_arguments)
    checkpoint = str(tmp_path / "training" / "best")
    pl.DataFrame({"item_id": ids}).write_parquet(tmp_path / "catalog.parquet")
    given = [*inputs, "--catalog", str(tmp_path / "catalog.parquet")]
    assert main(["export", *given, "--checkpoint", checkpoint, "--output", str(tmp_path / "model")]) == 0
    *paths, popularity, target, catalog = exported
    assert isinstance(catalog, pl.DataFrame)
    assert catalog["item_id"].to_list() == ids.tolist()
    assert paths == [Path(checkpoint), tiny_model.semantic_ids, tiny_model.embeddings]
    assert target == tmp_path / "model"
    bought = [item for items in frame["item_ids"].to_list() for item in items[:-2]]
    assert popularity.tolist() == [bought.count(item) for item in ids.tolist()]


@pytest.mark.slow
def test_train_starts_torchrun_for_several_processes(tmp_path: Path, tiny_model: "TinyModel") -> None:
    ids = SemanticIds.load(tiny_model.semantic_ids).item_ids.tolist()
    frame = pl.DataFrame(
        {"user_id": [str(user) for user in range(30)], "item_ids": [ids[u : u + 8] for u in range(30)]}
    )
    frame.write_parquet(tmp_path / "histories.parquet")
    inputs = ["--semantic_ids", str(tiny_model.semantic_ids), "--embeddings", str(tiny_model.embeddings)]
    inputs += [
        "--histories",
        str(tmp_path / "histories.parquet"),
        "--processes",
        "2",
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(["train", *inputs, "--epochs=1", "--d_model=16", "--heads=2"]) == 0
    assert (tmp_path / "out" / "best" / "model.safetensors").is_file()
    assert main(["train", *inputs, "--epochs=2", "--d_model=16", "--heads=2"]) == 2


@pytest.mark.parametrize("option", ["--ema_decay=0.9", "--parallel_levels=true", "--code_dropout=0.1"])
def test_a_setting_that_was_taken_out_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--output", "x", option])
    assert f"unrecognized arguments: {option}" in capsys.readouterr().err


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[TrainingSettings]:
    """The settings of the trainings that would start."""
    settings: list[TrainingSettings] = []
    for name in ("_train_here", "_train_with_torchrun"):
        monkeypatch.setattr(f"genrec_core.cli.train.{name}", lambda changed, *_: settings.append(changed))
    return settings


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ([], {}),
        (["--processes", "3"], {"processes": 3}),
        (["--epochs", "3", "--amp", "bf16"], {"epochs": 3, "amp": "bf16"}),
        (["--learning-rate=0.1", "--id-views", "2"], {"learning_rate": 0.1, "id_views": 2}),
        (["--learn_item_vectors"], {"learn_item_vectors": True}),
        (["--use_item_vectors", "false"], {"use_item_vectors": False}),
    ],
)
def test_training_settings_are_the_preset_and_what_was_typed(
    options: list[str], changed: dict[str, object], tmp_path: Path, sample_folder: Path, started: list[TrainingSettings]
) -> None:
    inputs = ["--histories", str(sample_folder), "--semantic_ids", "none", "--embeddings", "none"]
    assert main(["train", *inputs, *options, "--output", str(tmp_path / "out")]) == 0
    assert started == [PRESETS["sample"].training.model_copy(update={"processes": 1, **changed})]


@pytest.mark.parametrize("form", [TrainingSettings, RendezvousSettings, EvaluationSettings, ServingSettings])
def test_every_setting_is_an_option_with_its_description(
    form: type[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = ""
    for command in ("train", "evaluate", "serve"):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        shown += " ".join(capsys.readouterr().out.split())
    for name, field in form.model_fields.items():
        assert f"--{name} " in shown or name == "endpoint"
        assert field.description
        assert field.description.rstrip(".").replace(" ", "") in shown.replace(" ", "")
