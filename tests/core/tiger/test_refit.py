"""A refit trains the measured recipe on all interactions, resumes, and follows what validation chose."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from genrec_core.data.histories import Histories
from genrec_core.errors import GenrecError
from genrec_core.settings import TrainingSettings
from genrec_core.storage.artifacts import read_json, write_json
from genrec_core.tiger.distributed import World
from genrec_core.tiger.model import TigerModel
from genrec_core.tiger.refit import RefitData, RefitTrainer, refit_settings
from genrec_core.tiger.training import TrainingData, TrainingEvent, train

ALONE, ITEMS = World(0, 1, torch.device("cpu")), 40
SETTINGS = TrainingSettings(
    d_model=32, heads=2, encoder_layers=1, decoder_layers=1, d_ff=64, epochs=4, max_history=10, batch_targets=None,
    learning_rate=5e-3, validate_every=1, validation_users=30, future_share=None,
)  # fmt: skip


def data() -> TrainingData:
    """Users walk the items in a circle; the last two items of each are sold to nobody before."""
    starts = np.arange(60) % 21
    rows = ((starts[:, None] + np.arange(12)) % 30).astype(np.int32)
    rows[:, -2:] = 30 + starts[:, None] % 10
    histories = Histories([str(user) for user in range(60)], rows.ravel(), np.arange(61) * 12)
    codes = np.stack([np.arange(ITEMS) // 8, np.arange(ITEMS) % 8, np.zeros(ITEMS)], axis=1).astype(np.int32)
    return TrainingData(
        histories, codes, (8, 8, 2), np.random.default_rng(1).normal(size=(ITEMS, 6)).astype(np.float32)
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(data(), SETTINGS, tmp_path_factory.mktemp("measured"), ALONE)


def refit(measured: Path, folder: Path, events: list[TrainingEvent] | None = None) -> Path:
    heard = events.append if events is not None else None
    return train(RefitData.of(data(), measured), refit_settings(measured), folder, ALONE, heard, RefitTrainer)


def test_all_interactions_are_trained_for_as_many_epochs_as_the_best_took(measured: Path, tmp_path: Path) -> None:
    history = read_json(measured / "training_history.json")
    write_json(measured / "training_history.json", {**history, "best_epoch": 3})
    events: list[TrainingEvent] = []
    best = refit(measured, tmp_path, events)
    refitted = read_json(best / "training_history.json")
    assert [entry["epoch"] for entry in refitted["epochs"]] == [1, 2, 3]
    assert events[0].values["targets"] == 60 * 11
    assert refitted["plan"] == history["plan"]  # learning rates fall over the epochs of the measured training
    assert not any("validation_recall@10" in entry for entry in refitted["epochs"])
    config, chosen = (TigerModel.from_pretrained(folder).config for folder in (best, measured))
    for name in ("identity_share", "neighbor_weight", "follower_weight", "hybrid_weight", "ranking", "exclude_seen"):
        assert getattr(config, name) == getattr(chosen, name)
    assert chosen.untrained_items == list(range(30, 40))
    assert config.untrained_items == []


def test_an_interrupted_refit_ends_as_an_unbroken_one(measured: Path, tmp_path: Path) -> None:
    def die(event: TrainingEvent) -> None:
        if event.kind == "epoch":
            raise KeyboardInterrupt

    unbroken = refit(measured, tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        train(RefitData.of(data(), measured), refit_settings(measured), tmp_path / "cut", ALONE, die, RefitTrainer)
    resumed = refit(measured, tmp_path / "cut")
    first, second = (TigerModel.from_pretrained(folder).state_dict() for folder in (unbroken, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_refit_of_another_model_does_not_go_on_in_the_same_folder(measured: Path, tmp_path: Path) -> None:
    refit(measured, tmp_path)
    with pytest.raises(GenrecError, match="holds a training of other settings or data"):
        train(data(), refit_settings(measured), tmp_path, ALONE)
    by_time = replace(data(), histories=replace(data().histories, windows=np.ones((2, 60), np.int64)))
    assert by_time.identity(SETTINGS) != data().identity(SETTINGS)
