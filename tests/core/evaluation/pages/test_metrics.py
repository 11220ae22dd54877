"""Plots are pictures of a readable size, whatever part of the data is there."""

from collections.abc import Callable

import numpy as np
import pytest

from genrec_core.evaluation.pages.metrics import exposure_picture, recall_by_cutoff, slice_bars, training_curves

AssertPicture = Callable[[bytes], None]


@pytest.mark.parametrize("cutoffs", [(5, 10), (5, 10, 50, 100, 1000)])
def test_recall_is_drawn_for_the_cutoffs_there_are(cutoffs: tuple[int, ...], assert_picture: AssertPicture) -> None:
    ranking = {f"recall@{k}": k / 2000 for k in cutoffs} | {
        f"recall@{k}_interval": [k / 2100, k / 1900] for k in cutoffs
    }
    assert_picture(recall_by_cutoff({"ranking": "generative", "generative": ranking, "popularity": ranking}))


def test_slices_are_drawn_also_where_one_is_empty(assert_picture: AssertPicture) -> None:
    names = ("recall@10", "recall@10_low", "recall@10_high", "popularity_recall@10")
    shown = [
        {"slice": "<=5", "users": 3, **dict.fromkeys(names, 0.5)},
        {"slice": ">5", "users": 0, **dict.fromkeys(names)},
    ]
    assert_picture(slice_bars({"history_length": shown, "target_popularity": shown[:1]}))


@pytest.mark.parametrize("validated", [[], [2], [2, 4]])
def test_training_is_drawn_with_and_without_validations(validated: list[int], assert_picture: AssertPicture) -> None:
    history = [{"epoch": epoch, "loss": 9.0 - epoch} for epoch in range(1, 5)]
    for epoch in validated:
        history[epoch - 1]["validation_recall@10"] = epoch / 100
        history[epoch - 1]["validation_generative_recall@10"] = epoch / 200
    assert_picture(training_curves(history, max(validated, default=4)))


def test_the_same_data_gives_the_same_bytes() -> None:
    history = [{"epoch": 1, "loss": 3.0, "validation_recall@10": 0.01}]
    assert training_curves(history, 1) == training_curves(history, 1)


def test_the_exposure_is_drawn_also_where_nothing_is_shown(assert_picture: AssertPicture) -> None:
    assert_picture(exposure_picture(np.array([5, 1, 2, 0]), np.array([2, 1, 2, 0])))
    assert_picture(exposure_picture(np.array([5, 1, 2, 0]), np.zeros(4, dtype=np.int64)))
