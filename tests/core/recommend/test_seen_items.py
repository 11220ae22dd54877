"""A model whose lists may hold seen items gives such lists everywhere, unless a request says otherwise."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.cli.main import main
from genrec_core.recommend.instances import answer_instances, read_instances
from genrec_core.recommend.recommender import Recommender
from genrec_core.serving.decoder_process import decode
from genrec_core.storage.artifacts import write_manifest

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel

ITEMS = 90


@pytest.fixture(scope="module")
def keeping_dir(tiny_model: "TinyModel", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as if validation had found more with seen items."""
    path = shutil.copytree(tiny_model.model_dir, tmp_path_factory.mktemp("keeping") / "model")
    folder = ModelFolder(path)
    folder.save_settings(replace(folder.settings, exclude_seen=False))
    write_manifest(path)
    return path


@pytest.fixture(scope="module")
def keeping(keeping_dir: Path) -> Recommender:
    return Recommender.open(keeping_dir)


@pytest.mark.parametrize(("asked", "listed"), [({}, ITEMS), ({"exclude_seen": True}, ITEMS - 3)])
def test_requests_follow_the_model_unless_they_say_otherwise(
    keeping: Recommender, tiny_recommender: Recommender, asked: dict[str, Any], listed: int
) -> None:
    history = keeping.item_ids[:3].tolist()
    assert len(keeping.recommend([history], ITEMS, **asked)[0]) == listed
    assert len(tiny_recommender.recommend([history], ITEMS, **asked)[0]) == ITEMS - 3
    request = read_instances({"topk": ITEMS, "instances": [{"user_id": 1, "item_ids": history}], **asked})
    (answer,) = answer_instances(keeping, [request])
    assert len(answer["predictions"][0]["predictions"]) == listed
    over_http = decode(keeping, request.model_dump(exclude={"instances"}), [history])
    assert over_http["items"] == [answer["predictions"][0]["predictions"]]


@pytest.mark.parametrize(
    ("model", "options", "listed"),
    [
        ("keeping", [], ITEMS),
        ("keeping", ["--exclude_seen"], ITEMS - 3),
        ("excluding", [], ITEMS - 3),
        ("excluding", ["--exclude_seen", "false"], ITEMS),
        ("excluding", ["--keep_seen"], ITEMS),
    ],
)
def test_prediction_files_follow_the_model_unless_an_option_says_otherwise(
    keeping_dir: Path, tiny_model: "TinyModel", tmp_path: Path, model: str, options: list[str], listed: int
) -> None:
    folder, output = keeping_dir if model == "keeping" else tiny_model.model_dir, tmp_path / "out.csv"
    history = ModelFolder(folder).item_ids[:3].tolist()
    (tmp_path / "requests.txt").write_text(" ".join(map(str, [1, *history])))
    paths = ["--input_path", str(tmp_path / "requests.txt"), "--output_path", str(output), "--model_dir", str(folder)]
    assert main(["predict", *paths, "--topk", str(ITEMS), "--quiet", *options]) == 0
    with output.open(newline="") as file:
        assert sum(cell != "" for cell in list(csv.reader(file))[1][1:]) == listed
