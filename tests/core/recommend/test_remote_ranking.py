"""Requests ranked by an engine's workers: the file that this process writes, byte for byte."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.engines.engine import Engine
from genrec_core.errors import GenrecError
from genrec_core.recommend.predict import predict_file, rejected_path
from genrec_core.recommend.recommender import Recommender
from genrec_core.recommend.remote_ranking import ModelFiles, RemoteRanking
from genrec_core.settings import PredictionSettings

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel


def requests_file(folder: Path, recommender: Recommender, users: int = 200) -> Path:
    """CSV of random histories, some lines malformed, some with an allow list of their own."""
    random, known = np.random.default_rng(1), recommender.item_ids
    lines = ["user_id,item_ids,allow"]
    for user in range(users):
        history = " ".join(map(str, random.choice(known, random.integers(0, 15))))
        allow = " ".join(map(str, random.choice(known, 20))) if user % 7 == 0 else ""
        lines.append(f"{user},{'x' if user % 50 == 3 else history},{allow}")
    path = folder / "requests.csv"
    path.write_text("\n".join(lines))
    return path


def test_workers_write_the_file_that_this_process_writes(
    tmp_path: Path, tiny_model: "TinyModel", tiny_recommender: Recommender
) -> None:
    source, settings = requests_file(tmp_path, tiny_recommender), PredictionSettings(top_k=12, batch_users=3)
    here, there = tmp_path / "here.csv", tmp_path / "there.csv"
    remote = RemoteRanking.of(Engine(), tiny_model.model_dir)
    reports = [
        predict_file(tiny_recommender, source, output, settings, show_progress=False, remote=ranks)
        for output, ranks in ((here, None), (there, remote))
    ]
    assert there.read_bytes() == here.read_bytes()
    assert rejected_path(there).read_bytes() == rejected_path(here).read_bytes()
    assert reports[0].users == reports[1].users == 196
    assert reports[0].short_rows == reports[1].short_rows


def test_withdrawn_items_travel_with_the_model(tmp_path: Path, tiny_model: "TinyModel") -> None:
    model = shutil.copytree(tiny_model.model_dir, tmp_path / "model")
    before = ModelFiles.of(model)
    gone = Recommender.open(model).popular_rows[:3]
    items = Recommender.open(model).item_ids[gone]
    ModelFolder(model).withdraw(items)
    assert ModelFiles.of(model) != before
    (tmp_path / "requests").write_text("1\n")
    output = tmp_path / "out.csv"
    remote = RemoteRanking.of(Engine(), model)
    settings = PredictionSettings(top_k=40)
    predict_file(Recommender.open(model), tmp_path / "requests", output, settings, show_progress=False, remote=remote)
    listed = output.read_text().splitlines()[1].split(",")[1:]
    assert len(listed) == 40
    assert not {str(item) for item in items} & set(listed)


def test_a_model_that_is_not_whole_is_refused_by_the_worker(
    tmp_path: Path, tiny_model: "TinyModel", tiny_recommender: Recommender
) -> None:
    model = shutil.copytree(tiny_model.model_dir, tmp_path / "model")
    (model / "codes_with_suffix.npy").unlink()
    remote, output = RemoteRanking.of(Engine(), model), tmp_path / "out.csv"
    source = requests_file(tmp_path, tiny_recommender, users=3)
    with pytest.raises(GenrecError, match=r"codes_with_suffix.npy: listed in manifest.json but missing"):
        predict_file(tiny_recommender, source, output, PredictionSettings(top_k=2), show_progress=False, remote=remote)
    assert not output.exists()
