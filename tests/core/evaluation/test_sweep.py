"""A sweep trains what is missing, skips what is done, and compares runs."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from genrec_core.cli.main import main
from genrec_core.errors import GenrecError
from genrec_core.evaluation.sweep import RESULT, read_sweep, sweep_table, trials
from genrec_core.settings import PRESETS
from genrec_core.storage.artifacts import read_json

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel

SWEEP = """
preset = "sample"
seeds = [1]
[set]
epochs = 1
d_model = 16
heads = 2
d_ff = 16
validation_users = 10
[evaluation]
users = 15
beams = 20
bootstrap_samples = 10
[[run]]
name = "as it is"
[[run]]
name = "No dense head"
set = { dense_weight = 0.0 }
[[run]]
name = "fewer codes"
semantic_ids = { levels = 2, codebook_size = 8 }
[[run]]
name = "SASRec"
model = "sasrec"
"""


@pytest.fixture
def arguments(tiny_model: "TinyModel", tmp_path: Path) -> list[str]:
    (tmp_path / "sweep.toml").write_text(SWEEP)
    item_ids, random = np.load(tiny_model.model_dir / "item_ids.npy"), np.random.default_rng(0)
    lists = [random.choice(item_ids, 6, replace=False).tolist() for _ in range(30)]
    frame = pl.DataFrame({"user_id": [str(user) for user in range(30)], "item_ids": lists})
    frame.write_parquet(tmp_path / "histories.parquet")
    return [
        "sweep", str(tmp_path / "sweep.toml"), "--semantic_ids", str(tiny_model.semantic_ids), "--embeddings",
        str(tiny_model.embeddings), "--histories", str(tmp_path / "histories.parquet"), "--output",
        str(tmp_path / "out"),
    ]  # fmt: skip


def test_it_trains_what_is_missing_and_skips_what_is_done(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    done = capsys.readouterr()
    assert done.err.count("validation Recall@10") == 4
    lines = [line for line in done.out.splitlines() if line.startswith("|")][2:]
    modes = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines]
    assert modes == [
        ("as it is", "generative"), ("as it is", "hybrid"), ("as it is", "dense"), ("No dense head", "generative"),
        ("fewer codes", "generative"), ("fewer codes", "hybrid"), ("fewer codes", "dense"), ("SASRec", "dense"),
    ]  # fmt: skip
    assert (tmp_path / "out" / "sweep.md").read_text() == done.out
    folders = sorted(path.parent for path in (tmp_path / "out").glob(f"*/{RESULT}"))
    assert all(read_json(folder / RESULT)["metrics"]["split"] == "validation" for folder in folders)
    (folders[0] / RESULT).unlink()
    stamps = [(folder / RESULT).stat().st_mtime_ns for folder in folders[1:]]
    assert main(arguments) == 0
    again = capsys.readouterr()
    assert again.err.count("validation Recall@10") == 1
    assert [(folder / RESULT).stat().st_mtime_ns for folder in folders[1:]] == stamps


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("epochs = 1", "epoch = 1"), "run 'as it is': epoch"),
        (("epochs = 1", "processes = 2"), "processes is given, but a sweep trains in one process of one thread"),
        (("dense_weight = 0.0", "threads_per_process = 2"), "run 'No dense head': threads_per_process is given"),
        (("levels = 2", "levels = 0"), "run 'fewer codes': levels"),
        (('preset = "sample"', 'preset = "large"'), "preset large: no such preset of tiger; choose one of sample"),
        (('name = "SASRec"', 'name = "as it is"'), "two runs are called 'as it is'"),
        (("seeds = [1]", "seeds = []"), "seeds"),
        (("[[run]]", "[[runs]]"), "runs"),
        (("seeds = [1]", "seeds = ["), "cannot be read as TOML"),
    ],
)
def test_a_fault_in_the_file_is_named_before_anything_is_trained(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP.replace(*change))
    with pytest.raises(GenrecError) as caught:
        trials(read_sweep(path), path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_file_of_another_encoding_is_named_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_bytes(SWEEP.encode("utf-8-sig"))
    assert read_sweep(path).preset == "sample"
    for encoding in ("utf-16", "latin-1"):
        path.write_bytes(f"# Jérôme\n{SWEEP}".encode(encoding))
        with pytest.raises(GenrecError, match=r"sweep\.toml: line 1: .*; save the file as UTF-8"):
            read_sweep(path)


def test_the_table_gives_mean_and_spread_over_seeds() -> None:
    def result(run: str, recall: float) -> dict[str, object]:
        return {"run": run, "training_seconds": 10.0, "metrics": {"generative": {"recall@10": recall}}}

    table = sweep_table([result("a", 0.1), result("a", 0.2), result("b", 0.3)])
    first, second = table.splitlines()[2:]
    assert first.split("|")[3:5] == [" 2 ", " 0.1500 ± 0.0707 "]
    assert second.split("|")[3:5] == [" 1 ", " 0.3000 "]
    assert first.split("|")[8] == "  "
    assert second.split("|")[8] == " +100.0% "


def test_settings_of_a_trial_are_those_of_preset_file_and_run(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP.replace("seeds = [1]", "seeds = [1, 2]"))
    planned = trials(read_sweep(path), path)
    assert [(trial.run.name, trial.settings.seed) for trial in planned[:3]] == [
        ("as it is", 1),
        ("as it is", 2),
        ("No dense head", 1),
    ]
    assert planned[2].settings.dense_weight == 0.0
    assert planned[2].settings.d_model == 16
    assert planned[2].settings.max_history == 30
    assert len({trial.folder for trial in planned}) == len(planned)


def test_a_run_may_have_seeds_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP.replace('name = "as it is"', 'name = "as it is"\nseeds = [1, 7]'))
    planned = trials(read_sweep(path), path)
    assert [trial.settings.seed for trial in planned][:3] == [1, 7, 1]
    path.write_text(SWEEP)
    assert trials(read_sweep(path), path)[0].folder == planned[0].folder  # what is done stays done


def test_the_ablation_of_the_repository_is_a_sweep() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "ablation.toml"
    sweep = read_sweep(path)
    seeds = [{trial.settings.seed for trial in trials(sweep, path) if trial.run is run} for run in sweep.run]
    assert len(seeds[0]) == 3  # what is noise
    assert all(of_run == {1} for of_run in seeds[1:])


TEXTS = f"""{SWEEP[: SWEEP.index("[[run]]")]}[[run]]
name = "titles alone"
catalog = {{ text_template = "{{title}};" }}
semantic_ids = {{ levels = 2, codebook_size = 8 }}
"""


def test_a_run_with_texts_of_its_own_has_the_codes_of_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(TEXTS.replace("semantic_ids = { levels = 2, codebook_size = 8 }", ""))
    (trial,) = trials(read_sweep(path), path)
    assert trial.semantic_ids == PRESETS["sample"].semantic_ids


def test_a_run_may_have_item_texts_of_its_own(arguments: list[str], tiny_model: "TinyModel", tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(TEXTS)
    item_ids = np.sort(np.load(tiny_model.model_dir / "item_ids.npy"))
    titles = [None, *(f"Lipstick {item}" for item in item_ids[1:])]
    catalog = pl.DataFrame({"item_id": item_ids, "title": titles, "brand": ["OPI"] * len(item_ids)})
    catalog.write_parquet(tmp_path / "catalog.parquet")
    assert main([*arguments, "--catalog", str(tmp_path / "catalog.parquet")]) == 0
    (folder,) = (tmp_path / "out").glob("titles-alone-*")
    texts = read_json(folder / "item_embeddings" / "item_text.json")
    assert texts == [f"Item: {item_ids[0]};", *(f"Lipstick {item};" for item in item_ids[1:])]
    assert read_json(folder / "item_embeddings" / "embedding_stats.json")["model"] == "all-MiniLM-L6-v2"
    assert read_json(folder / RESULT)["metrics"]["split"] == "validation"


def test_a_fault_of_the_catalogue_is_named_before_anything_is_trained(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.toml").write_text(TEXTS.replace("[[run]]", '[[run]]\nname = "as it is"\n[[run]]', 1))
    path = tmp_path / "catalog.parquet"
    pl.DataFrame({"item_id": [1], "text": ["a"]}).write_parquet(path)
    assert main([*arguments, "--catalog", str(path)]) != 0
    assert (
        f"{path}: text_template part '{{title}}': a part may hold one of the fields (there" in capsys.readouterr().err
    )
    pl.DataFrame({"title": ["a"]}).write_parquet(path)
    assert main([*arguments, "--catalog", str(path)]) != 0
    assert f"{path}: has no column item_id" in capsys.readouterr().err
    both = tmp_path / "both"
    both.mkdir()
    for name in ("new.parquet", "old.parquet"):
        shutil.copy(path, both / name)
    assert main([*arguments, "--catalog", str(both)]) != 0
    assert f"{both}: holds 2 parquet files; name the one of the item catalogue" in capsys.readouterr().err
    path.write_text("item_id,title")
    assert main([*arguments, "--catalog", str(path)]) != 0
    assert f"{path}: not a parquet file" in capsys.readouterr().err
    path.unlink()
    assert main([*arguments, "--catalog", str(path)]) != 0
    assert f"{path}: not a parquet file" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("as-it-is-*"))


def test_texts_of_its_own_make_a_run_another_one(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(TEXTS)
    titles = trials(read_sweep(path), path)[0].folder
    path.write_text(TEXTS.replace("{title}", "{brand}"))
    assert trials(read_sweep(path), path)[0].folder != titles


def test_a_fault_in_a_run_s_texts_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(TEXTS.replace("text_template", "template"))
    with pytest.raises(GenrecError, match="run 'titles alone': template"):
        trials(read_sweep(path), path)
