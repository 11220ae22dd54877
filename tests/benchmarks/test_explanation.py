"""The benchmark of explanations on a tiny exported model."""

from typing import TYPE_CHECKING

from tests.benchmarks import explanation

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel


def test_ten_items_are_explained_within_a_tenth_of_a_second_of_a_core(tiny_model: "TinyModel") -> None:
    figures = explanation.run(tiny_model.model_dir, users=5)
    for ranking in ("dense", "generative", "hybrid"):
        assert 0 < figures[f"{ranking}_ms"]["median"] < 100
    assert (figures["catalogue"], figures["max_history"]) == (90, 12)
