"""The synthetic shop: the same bytes every time, and a sequence worth learning."""

import numpy as np

from genrec_core.data.histories import Histories
from genrec_core.data.p5 import RAW_FILES, read_histories
from genrec_core.data.sample import write_sample
from genrec_core.data.sources import read_catalog
from genrec_core.data.split import held_out_test_part, training_part
from genrec_core.settings import CatalogSettings


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(tmp_path):
    for name, seed in (("first", 7), ("again", 7), ("other", 8)):
        write_sample(tmp_path / name, users=50, items=60, seed=seed)
    for file in RAW_FILES:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    assert (tmp_path / "first" / RAW_FILES[0]).read_bytes() != (tmp_path / "other" / RAW_FILES[0]).read_bytes()


def test_histories_are_five_items_or_more_without_repeats(tmp_path):
    write_sample(tmp_path, users=300, items=20)
    for items in read_histories(tmp_path)["item_ids"].to_list():
        assert len(items) >= 5
        assert len(set(items)) == len(items)
        assert set(items) <= set(range(1, 21))


def test_what_followed_the_last_item_predicts_far_better_than_popularity(tmp_path):
    write_sample(tmp_path)
    items = read_catalog(tmp_path, CatalogSettings())["item_id"].to_numpy()
    histories = Histories.from_frame(read_histories(tmp_path), items)
    training, held_out = training_part(histories), held_out_test_part(histories)
    follows = np.zeros((len(items), len(items)))
    for user in range(len(training)):
        np.add.at(follows, (training.of(user)[:-1], training.of(user)[1:]), 1)
    popularity = np.bincount(training.rows, minlength=len(items)) / len(training.rows)
    newest = held_out.histories.rows[held_out.histories.offsets[1:] - 1]
    by_transition = np.argsort(-(follows[newest] + popularity), axis=1)[:, :10]
    transition_recall = (by_transition == held_out.targets[:, None]).any(axis=1).mean()
    popularity_recall = np.isin(held_out.targets, np.argsort(-popularity)[:10]).mean()
    assert transition_recall > 0.3
    assert transition_recall > 4 * popularity_recall
