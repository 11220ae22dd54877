"""Training learns, resumes to the same history, works in several processes and refuses what it cannot train."""

import errno
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from genrec_core.data.histories import Histories, padded
from genrec_core.errors import GenrecError
from genrec_core.sasrec.model import SasRecTrainer
from genrec_core.search.generative import beam_search
from genrec_core.search.trie import CodeTrie
from genrec_core.settings import RendezvousSettings, Settings, TrainingSettings
from genrec_core.storage.artifacts import read_json
from genrec_core.tiger import checkpoint
from genrec_core.tiger import model as tiger_model
from genrec_core.tiger.checkpoint import Progress
from genrec_core.tiger.distributed import World
from genrec_core.tiger.model import TigerConfig, TigerModel
from genrec_core.tiger.scorer import TorchScorer
from genrec_core.tiger.torchrun import torchrun_command
from genrec_core.tiger.training import Trainer, TrainingData, TrainingEvent, paired_interval, schedule, train

ALONE = World(0, 1, torch.device("cpu"))
ITEMS = 40


def cyclic_data(users: int = 60) -> TrainingData:
    """Users walk the items in a circle, so the next item is always known."""
    starts = np.random.default_rng(0).integers(0, ITEMS, users)
    rows = ((starts[:, None] + np.arange(12)) % ITEMS).astype(np.int32)
    histories = Histories([str(user) for user in range(users)], rows.ravel(), np.arange(users + 1) * 12)
    codes = np.stack([np.arange(ITEMS) // 8, np.arange(ITEMS) % 8, np.zeros(ITEMS)], axis=1).astype(np.int32)
    vectors = np.random.default_rng(1).normal(size=(ITEMS, 6)).astype(np.float32)
    return TrainingData(histories, codes, (8, 8, 2), vectors)


def small_settings(**changes: object) -> TrainingSettings:
    values = {
        "d_model": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "d_ff": 64, "dropout": 0.1, "epochs": 4,
        "max_history": 10, "batch_targets": 64, "learning_rate": 5e-3, "validate_every": 1, "validation_users": 30,
        "label_smoothing": 0.05, "future_share": 0.2,
    }  # fmt: skip
    return TrainingSettings.model_validate({**values, **changes})


def steady_settings() -> TrainingSettings:
    """Without anything drawn in training, so that the number of processes makes no difference."""
    return small_settings(dropout=0.0, learn_item_vectors=False, id_views=0, future_share=0.0, epochs=3)


def large_settings(**changes: object) -> TrainingSettings:
    """As for a catalogue that no step may touch as a whole, but so many negatives that a sample holds all items."""
    return small_settings(**{"dense_full_items": 0, "dense_negatives": 2000, **changes})


class KilledError(Exception):
    """Stands for the end of the process."""


def test_a_model_learns_what_follows_and_the_best_one_is_kept(tmp_path: Path):
    events: list[TrainingEvent] = []
    best = train(cyclic_data(), small_settings(epochs=15, future_share=0.0), tmp_path, ALONE, events.append)
    history = read_json(best / "training_history.json")
    losses = [entry["loss"] for entry in history["epochs"]]
    assert losses[-1] < 0.5 * losses[0]
    assert history["best_recall@10"] > 0.8
    assert TigerModel.from_pretrained(best).config.level_sizes == [8, 8, 2]
    assert [event.kind for event in events if event.kind != "step"] == ["start"] + ["epoch"] * len(losses) + ["end"]
    assert (events[0].values["epochs"], events[0].values["batch_targets"]) == (15, 64)


def test_a_large_catalogue_is_learned_as_a_small_one_is(tmp_path: Path) -> None:
    data, changes = cyclic_data(), {"epochs": 12, "future_share": 0.0, "dense_label_smoothing": 0.0, "neighbors": 0}
    histories = []
    for settings in (small_settings(**changes), large_settings(**changes)):
        best = train(data, settings, tmp_path / str(settings.dense_full_items), ALONE)
        histories.append(read_json(best / "training_history.json"))
    exact, large = histories
    for name in ("validation_recall@10", "validation_generative_recall@10"):
        assert large["epochs"][-1][name] == pytest.approx(exact["epochs"][-1][name], abs=0.1)
    assert large["best_recall@10"] > 0.8


NEAR = 1e-6  # to a bound that is excluded
CHEAP = 100  # larger upper bounds cost more than they show
NEEDS = {("heads", 64): {"d_model": 64}, ("dense_weight", 0): {"id_views": 0}}  # what the value is refused without
OF_THE_LAUNCHER = {"processes", "threads_per_process"}  # read by torchrun, not by a rank


def bounds(form: type[Settings]) -> Iterator[tuple[str, float]]:
    """Each numeric setting with its least and, where that is cheap, its largest value."""
    for name, field in form.model_fields.items():
        for rule in field.metadata:
            for kind, inward in (("ge", 0), ("gt", NEAR), ("le", 0), ("lt", -NEAR)):
                limit = getattr(rule, kind, None)
                if limit is not None and (kind in {"ge", "gt"} or limit <= CHEAP):
                    yield name, limit + inward


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"), [bound for bound in bounds(TrainingSettings) if bound[0] not in OF_THE_LAUNCHER]
)
def test_a_setting_at_its_bound_trains(tmp_path: Path, name: str, value: float) -> None:
    settings = small_settings(**{"epochs": 1, **NEEDS.get((name, value), {}), name: value})
    history = read_json(train(cyclic_data(12), settings, tmp_path, ALONE) / "training_history.json")
    assert np.isfinite([entry["loss"] for entry in history["epochs"]]).all()


def test_all_settings_at_their_least_values_train(tmp_path: Path) -> None:
    least = dict(reversed(list(bounds(TrainingSettings))))  # a least value precedes the largest one
    history = read_json(train(cyclic_data(12), small_settings(**least), tmp_path, ALONE) / "training_history.json")
    assert np.isfinite([entry["loss"] for entry in history["epochs"]]).all()


@pytest.mark.parametrize(
    "changes",
    [{}, {"dense_weight": 0.5, "content_views": 2}, {"dense_weight": 0.0, "id_views": 0}, {"dense_full_items": 0}],
)
def test_a_model_that_knows_nothing_has_about_the_loss_of_a_uniform_guess(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    settings = small_settings(epochs=1, learning_rate=1e-12, dropout=0.0, **changes)
    history = read_json(train(cyclic_data(), settings, tmp_path, ALONE) / "training_history.json")
    assert history["epochs"][0]["loss"] == pytest.approx(history["uniform_loss"], rel=0.25)


def test_one_epoch_is_better_than_a_uniform_guess(tmp_path: Path) -> None:
    history = read_json(train(cyclic_data(), small_settings(epochs=1), tmp_path, ALONE) / "training_history.json")
    assert history["epochs"][0]["loss"] < history["uniform_loss"]


@pytest.mark.parametrize(("killed_after", "settings"), [(1, small_settings()), (3, large_settings())])
def test_a_killed_training_ends_with_the_history_of_an_unbroken_one(
    tmp_path: Path, killed_after: int, settings: TrainingSettings
):

    def kill(event: TrainingEvent) -> None:
        if event.kind == "epoch" and event.epoch == killed_after:
            raise KilledError

    unbroken = train(cyclic_data(), settings, tmp_path / "unbroken", ALONE)
    with pytest.raises(KilledError):
        train(cyclic_data(), settings, tmp_path / "broken", ALONE, kill)
    resumed = train(cyclic_data(), settings, tmp_path / "broken", ALONE)
    first, second = (read_json(folder / "training_history.json") for folder in (unbroken, resumed))
    assert first["epochs"] == second["epochs"]
    assert first["best_recall@10"] == second["best_recall@10"]
    for old, new in zip(
        TigerModel.from_pretrained(unbroken).parameters(), TigerModel.from_pretrained(resumed).parameters(), strict=True
    ):
        assert torch.equal(old, new)


def test_the_kept_model_names_the_items_that_training_never_saw(tmp_path: Path):
    data = cyclic_data()
    never = ITEMS - 1
    rows = np.where(data.histories.rows == never, 0, data.histories.rows)
    histories = Histories(data.histories.user_ids, rows, data.histories.offsets)
    best = train(
        TrainingData(histories, data.codes, data.level_sizes, data.vectors), small_settings(epochs=1), tmp_path, ALONE
    )
    assert read_json(best / "config.json")["untrained_items"] == [never]


def test_training_stops_when_validation_no_longer_improves(tmp_path: Path):
    settings = small_settings(epochs=50, learning_rate=1e-9, patience=2)
    history = read_json(train(cyclic_data(), settings, tmp_path, ALONE) / "training_history.json")
    assert len(history["epochs"]) == 3


def test_the_epoch_that_is_kept_is_the_newest_of_the_best_by_both_rankings_together():
    progress = Progress()
    assert (progress.best, progress.stale) == ({}, 0)
    for epoch, recalls in ((1, None), (2, (0.12, 0.06)), (4, (0.13, 0.09)), (6, (0.12, 0.10)), (8, (0.11, 0.10))):
        names = ("validation_recall@10", "validation_generative_recall@10")
        progress.history.append({"epoch": epoch, **dict(zip(names, recalls or (), strict=False))})
    assert (progress.best["epoch"], progress.stale) == (6, 2)  # as good as epoch 4, after which nothing was better
    progress.history.append({"epoch": 10, "validation_recall@10": 0.12, "validation_generative_recall@10": 0.11})
    assert (progress.best["epoch"], progress.stale) == (10, 0)


def test_a_state_of_an_earlier_version_goes_on(tmp_path: Path):
    def kill(event: TrainingEvent) -> None:
        if event.kind == "epoch":
            raise KilledError

    settings = small_settings(epochs=2)
    with pytest.raises(KilledError):
        train(cyclic_data(), settings, tmp_path, ALONE, kill)
    saved = tmp_path / "state" / "progress.json"
    saved.write_text(json.dumps({**json.loads(saved.read_text()), "best_recall": 0.5, "stale": 1}))
    history = read_json(train(cyclic_data(), settings, tmp_path, ALONE) / "training_history.json")
    assert len(history["epochs"]) == 2


DIE_WHILE_THE_STATE_IS_REPLACED = """
import os, pathlib, sys

import torch

sys.path.insert(0, sys.argv[1])
import test_training
from genrec_core.tiger.training import train

torch.set_num_threads(1)
rename, folder = pathlib.Path.rename, pathlib.Path(sys.argv[2])


def die_between_the_two_steps(path, target):
    if target == folder / "state" and list(folder.glob(".state.*.old")):
        os._exit(9)
    return rename(path, target)


pathlib.Path.rename = die_between_the_two_steps
train(test_training.cyclic_data(), test_training.small_settings(), folder, test_training.ALONE)
"""


def test_a_training_killed_while_it_replaces_its_state_goes_on_from_the_state_before(tmp_path: Path):
    command = [sys.executable, "-c", DIE_WHILE_THE_STATE_IS_REPLACED, str(Path(__file__).parent)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([*command, str(tmp_path / "broken")], env=environment, check=False, timeout=120)
    assert killed.returncode == 9
    assert not (tmp_path / "broken" / "state").exists()
    events: list[TrainingEvent] = []
    resumed = train(cyclic_data(), small_settings(), tmp_path / "broken", ALONE, events.append)
    assert (events[0].kind, events[0].epoch, events[0].note) == ("start", 1, "")
    unbroken = train(cyclic_data(), small_settings(), tmp_path / "unbroken", ALONE)
    first, second = (read_json(folder / "training_history.json")["epochs"] for folder in (unbroken, resumed))
    assert [entry["epoch"] for entry in second] == [entry["epoch"] for entry in first]


def test_followers_and_similar_texts_stay_only_if_validation_gains_by_them(tmp_path: Path):
    data = cyclic_data()
    misleading = data.vectors[(np.arange(ITEMS) * 7) % ITEMS // 2]  # pairs of items with one text that never meet
    misleading /= np.linalg.norm(misleading, axis=1, keepdims=True)
    settings = small_settings(epochs=1, learning_rate=1e-5, neighbor_weight=100.0, follower_weight=1.0, neighbors=8)
    best = train(replace(data, vectors=misleading), settings, tmp_path, ALONE)
    scorer = TorchScorer.from_folder(best, data.codes, misleading)
    assert scorer.model.config.neighbor_weight == 0
    assert scorer.model.config.follower_weight in (1.0, 2.0)
    assert scorer.neighbors is not None
    nearest = scorer.neighbors.rows[np.arange(ITEMS), scorer.neighbors.bonus.argmax(axis=1)]
    assert nearest.tolist() == ((np.arange(ITEMS) + 1) % ITEMS).tolist()
    config, history = read_json(best / "config.json"), read_json(best / "training_history.json")
    train(replace(data, vectors=misleading), settings, tmp_path, ALONE)  # as after a kill at the very end
    assert (read_json(best / "config.json"), read_json(best / "training_history.json")) == (config, history)
    (best / "neighbors.npy").unlink()
    with pytest.raises(GenrecError, match=r"has no neighbors\.npy, as version 0\.2 writes it; train the model again"):
        TorchScorer.from_folder(best, data.codes, misleading)


@pytest.mark.parametrize(("spoiled", "share"), [("content", 0.8), ("identity", 0.2)])
def test_the_views_that_rank_better_get_most_of_the_dense_head(tmp_path: Path, spoiled: str, share: float) -> None:
    settings = small_settings(epochs=10, future_share=0.0, neighbors=0)
    trainer = Trainer(cyclic_data(), settings, tmp_path, ALONE, lambda event: None)
    trainer.run()
    best = TigerModel.from_pretrained(tmp_path / "best")
    assert best.config.identity_share in (0.2, 0.35, 0.5, 0.65, 0.8)
    weights = {"content": best.dense.matches[0].query.weight, "identity": best.item_encoder.identities[0].weight}
    torch.nn.init.normal_(weights[spoiled])
    scorer = trainer._choose_identity_share(best)
    assert best.config.identity_share == scorer.model.config.identity_share == share
    assert TorchScorer(best, trainer.codes, trainer.vectors).model.config.view_shares == [1 - share, share]


def repeating_data(users: int = 60) -> TrainingData:
    """Users go round one of ten groups of four items, so the next item is always one that they have."""
    group = np.arange(users)[:, None] % 10
    rows = (4 * group + np.arange(12) % 4).astype(np.int32)
    histories = Histories([str(user) for user in range(users)], rows.ravel(), np.arange(users + 1) * 12)
    return replace(cyclic_data(), histories=histories)


@pytest.mark.parametrize("trainer", [None, SasRecTrainer])
@pytest.mark.parametrize(("seen", "exclude_seen"), [("auto", False), ("exclude", True), ("keep", False)])
def test_users_who_repeat_items_get_lists_with_them_unless_the_setting_says_otherwise(
    tmp_path: Path, seen: str, exclude_seen: bool, trainer: type[Trainer] | None
) -> None:
    best = train(repeating_data(), small_settings(seen=seen), tmp_path, ALONE, trainer=trainer)
    history = read_json(best / "training_history.json")
    assert read_json(best / "config.json")["exclude_seen"] is exclude_seen
    assert history["best_recall@10"] == 0 if exclude_seen else history["best_recall@10"] > 0.6  # by chance 0.25
    found = history["seen_items"]
    assert (found["lists"], found["setting"]) == ("exclude" if exclude_seen else "keep", seen)
    assert found["exclude"] == 0 < found["keep"]
    assert 0 < found["low"] <= found["keep"] - found["exclude"] <= found["high"]


def test_users_who_never_repeat_get_lists_without_what_they_have(tmp_path: Path) -> None:
    best = train(cyclic_data(), small_settings(epochs=1), tmp_path, ALONE)
    found = read_json(best / "training_history.json")["seen_items"]
    assert read_json(best / "config.json")["exclude_seen"] is True
    assert found["exclude"] >= found["keep"]
    assert found["low"] <= 0


def test_a_gain_of_few_users_is_not_sure() -> None:
    assert paired_interval(1.0, 1.0, users=2)[0] < 0 < paired_interval(1.0, 1.0, users=5)[0]
    assert paired_interval(0.0, 0.0, users=1000) == pytest.approx((-0.002, 0.002), abs=2e-4)
    low, high = paired_interval(0.1, 0.3, users=10**6)  # as without the two users more
    error = math.sqrt((0.3 - 0.1**2) / 10**6)
    assert (low, high) == pytest.approx((0.1 - 1.96 * error, 0.1 + 1.96 * error), abs=1e-6)


def test_the_dense_head_ranks_unless_the_hybrid_is_better(tmp_path: Path):
    settings = small_settings(epochs=1, follower_weight=100.0)  # both find all targets
    config = read_json(train(cyclic_data(), settings, tmp_path, ALONE) / "config.json")
    assert config["ranking"] == "dense"


def test_the_path_of_large_catalogues_learns_and_ranks_a_small_one(tmp_path: Path):
    settings = small_settings(epochs=15, future_share=0.0, dense_full_items=0, exact_items=0)
    best = train(cyclic_data(), settings, tmp_path, ALONE)
    assert read_json(best / "training_history.json")["best_recall@10"] > 0.9
    config = read_json(best / "config.json")
    assert (config["known_items"], config["untrained_items"], config["code_rows"] > 0) == (0, [], True)
    scorer = TorchScorer.from_folder(best, cyclic_data().codes, cyclic_data().vectors)
    assert scorer.items.dtype == torch.float16


def test_where_the_order_is_strict_only_the_next_item_is_learned(tmp_path: Path):
    events: list[TrainingEvent] = []
    settings = small_settings(epochs=None, batch_targets=None, future_share=None, patience=1, validate_every=1)
    train(cyclic_data(), settings, tmp_path, ALONE, events.append)
    chosen = {name: events[0].values[name] for name in ("epochs", "batch_targets", "future_share")}
    assert chosen == {"epochs": 24, "batch_targets": 128, "future_share": 0.0}


def test_a_model_without_a_dense_head_lifts_followers_too(tmp_path: Path):
    data = cyclic_data()
    settings = small_settings(epochs=1, learning_rate=1e-5, dense_weight=0.0, id_views=0, follower_weight=20.0)
    scorer = TorchScorer.from_folder(train(data, settings, tmp_path, ALONE), data.codes, data.vectors)
    trie = CodeTrie.build(data.codes, data.level_sizes)
    histories = padded([np.array([3, 4, 5], np.int32), np.array([38, 39], np.int32)], 10)
    assert beam_search(scorer, trie, histories, beams=10, top_k=1).items[:, 0].tolist() == [6, 0]


def test_a_training_that_begins_again_says_why(tmp_path: Path):
    settings = small_settings(epochs=2, validate_every=2)  # the first epoch brings no new best model
    train(cyclic_data(), settings, tmp_path, ALONE)
    shutil.rmtree(tmp_path / "state")
    events: list[TrainingEvent] = []
    train(cyclic_data(), settings, tmp_path, ALONE, events.append)
    assert "from epoch 0, although" in events[0].note
    assert "state is missing" in events[0].note


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "progress.json"])
def test_a_damaged_state_is_named_and_no_training_begins_again_in_silence(tmp_path: Path, file: str):
    train(cyclic_data(), small_settings(epochs=1), tmp_path, ALONE)
    (tmp_path / "state" / file).write_bytes(b"cut off")
    with pytest.raises(GenrecError, match=r"state: this training state cannot be read .*delete the folder"):
        train(cyclic_data(), small_settings(epochs=1), tmp_path, ALONE)


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError("no room"), torch.AcceleratorError("launch failed")])
def test_a_device_without_room_is_not_taken_for_a_damaged_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
):
    train(cyclic_data(), small_settings(epochs=1), tmp_path, ALONE)
    monkeypatch.setattr(checkpoint, "load_file", Mock(side_effect=fault))
    with pytest.raises(type(fault), match=str(fault)):
        train(cyclic_data(), small_settings(epochs=1), tmp_path, ALONE)


@pytest.mark.parametrize("fault", [PermissionError(errno.EACCES, "not yours"), OSError(errno.EIO, "stale")])
@pytest.mark.parametrize("reader", ["load_file", "read_json"])
def test_nobody_is_told_to_delete_a_state_that_cannot_be_read_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, fault: OSError
):
    model = TigerModel(TigerConfig(level_sizes=(8, 8), d_model=16, heads=2, d_ff=32, prefix_buckets=64))
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoint.save_state(tmp_path / "state", model, optimizer, Progress(epoch=1))
    monkeypatch.setattr(checkpoint, reader, Mock(side_effect=fault))
    with pytest.raises(GenrecError, match=f"state: .*{fault.strerror}.*try again once the folder can be read") as told:
        checkpoint.load_state(tmp_path / "state", model, optimizer)
    assert "delete the folder" not in str(told.value)


def test_a_folder_of_other_settings_is_refused(tmp_path: Path):
    train(cyclic_data(), small_settings(epochs=1), tmp_path, ALONE)
    with pytest.raises(GenrecError, match="holds a training of other settings or data"):
        train(cyclic_data(), small_settings(epochs=2), tmp_path, ALONE)


def test_histories_too_short_to_train_are_refused(tmp_path: Path):
    data = cyclic_data(users=2)
    short = Histories(["1", "2"], data.histories.rows[:6], np.array([0, 3, 6]))
    with pytest.raises(GenrecError, match="nothing to train on"):
        train(TrainingData(short, data.codes, data.level_sizes, data.vectors), small_settings(), tmp_path, ALONE)


def test_the_learning_rate_rises_then_falls_to_zero():
    rates = [schedule(step, 100, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1
    assert rates[100] == pytest.approx(0)
    assert all(later <= earlier for earlier, later in pairwise(rates[10:]))


TORCHRUN = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import test_training
from genrec_core.settings import TrainingSettings
from genrec_core.tiger import model as tiger_model
from genrec_core.tiger.distributed import distributed
from genrec_core.tiger.training import train

with distributed() as world:
    assert world.size == 2
    tiger_model.HIDDEN_SHARE = 0.0
    settings = TrainingSettings.model_validate_json(sys.argv[3])
    train(test_training.cyclic_data(), settings, Path(sys.argv[2]), world)
"""


@pytest.mark.parametrize(
    "settings", [steady_settings(), large_settings(dropout=0.0, id_dropout=0.0, future_share=0.0, epochs=3)]
)
def test_two_processes_train_the_same_model_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: TrainingSettings
):
    monkeypatch.setattr(tiger_model, "HIDDEN_SHARE", 0.0)  # nothing may be drawn
    script = tmp_path / "worker.py"
    script.write_text(TORCHRUN)
    together = tmp_path / "together"
    program = [str(script), str(Path(__file__).parent), str(together), settings.model_dump_json()]
    command, variables = torchrun_command(TrainingSettings(processes=2), RendezvousSettings(), program)
    environment = {**os.environ, **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    alone = train(cyclic_data(), settings, tmp_path / "alone", ALONE)
    one, two = (
        json.loads((folder / "training_history.json").read_text())["epochs"] for folder in (alone, together / "best")
    )
    for first, second in zip(one, two, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-3)


ONE_PROCESS = """
import sys
from pathlib import Path

import torch

sys.path.insert(0, sys.argv[1])
import test_training
from genrec_core.tiger.training import train

torch.set_num_threads(1)
print("ready", flush=True)
train(test_training.cyclic_data(), test_training.small_settings(epochs=30), Path(sys.argv[2]), test_training.ALONE)
"""


@pytest.mark.slow
def test_a_training_killed_hard_at_any_moment_ends_with_the_history_of_an_unbroken_one(tmp_path: Path):
    script = tmp_path / "worker.py"
    script.write_text(ONE_PROCESS)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(folder: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), str(Path(__file__).parent), str(tmp_path / folder)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    assert start("unbroken").wait(300) == 0
    random, kills = np.random.default_rng(0), 0
    while kills < 6:
        process = start("broken")
        try:
            assert process.wait(float(random.uniform(0.05, 1.5))) == 0
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    assert kills > 2
    assert start("broken").wait(300) == 0
    first, second = (
        read_json(tmp_path / folder / "best" / "training_history.json")["epochs"] for folder in ("unbroken", "broken")
    )
    assert first == second
