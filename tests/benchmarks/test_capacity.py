"""The capacity page: units times costs, machines that keep the deadline, and what breaks at which size."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.benchmarks import capacity, unit_costs
from tests.benchmarks.capacity import Scale, as_markdown, breaks_of, bytes_of, work_of
from tests.benchmarks.unit_costs import UnitCost

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel

COSTS = {
    name: UnitCost(value, "of one", "a test")
    for name, value in {
        "embed_s": 0.01, "codes_s": 1e-5, "kmeans_s": 1e-3, "suffix_s": 1e-6, "trie_s": 1e-6, "nearest_s": 1e-4,
        "trie_bytes": 10.0, "decode_s": 0.002, "write_s": 1e-5, "csv_bytes": 1000.0, "target_item_s": 0.0,
        "history_items": 9.0, "target_s": 1e-3, "item_vectors_bytes": 1536.0, "item_keys_bytes": 1024.0,
    }.items()
}  # fmt: skip
LARGE, HALF = Scale(10**8, 10**9, 24, 16, 64), Scale(10**8 // 2, 10**9 // 2, 24, 16, 64)


def test_core_hours_are_units_times_cost_and_machines_keep_the_deadline() -> None:
    rows = {row["work"]: row for row in work_of(COSTS, LARGE)}
    embedding, decoding = rows["embed the texts"], rows["decode a list a user, generative"]
    assert embedding["core_hours"] == pytest.approx(1e8 * 0.01 / 3600)
    assert embedding["machines"] == 1  # 277.8 core-hours, where a machine gives 384 in a day
    assert decoding["machines"] == 2  # 555.6
    assert rows["train 24 epochs, sampled softmax"]["units"] == pytest.approx(1e9 * 7 * 24)
    assert rows["build the trie"]["machines"] is None  # one process builds it


def test_bytes_follow_items_and_users() -> None:
    large, half = ({row["what"]: row["bytes"] for row in bytes_of(COSTS, scale)} for scale in (LARGE, HALF))
    assert large["text vectors, raw and normalised (stored)"] == 2 * 1e8 * 384 * 4
    assert large["predictions as CSV (stored)"] == 1e12
    assert {name: large[name] / half[name] for name in large} == dict.fromkeys(large, 2.0)


def test_what_breaks_depends_on_the_size() -> None:
    small = Scale(12_101, 22_363, 24, 2, 25)
    assert breaks_of(COSTS, small) == []
    broken = {row["what"]: row["then"] for row in breaks_of(COSTS, LARGE)}
    assert "training samples 4096 items" in broken["full softmax of the dense head in training"]
    assert "auto takes 4 levels" in broken["codes of 3 x 256"]
    middling = {row["what"] for row in breaks_of(COSTS, Scale(10**6, 10**6, 24, 16, 64))}
    assert "full softmax of the dense head in training" in middling
    assert "text vectors in training" not in middling


@pytest.mark.slow
def test_unit_costs_are_measured_and_the_page_names_where_each_comes_from(
    tiny_model: "TinyModel", monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "_TEXTS": 4,
        "_VECTORS": 300,
        "_TRIE_ITEMS": 1000,
        "_USERS": 40,
    }.items():
        monkeypatch.setattr(unit_costs, name, value)
    monkeypatch.setattr(
        unit_costs, "_of_training", lambda: {"target_s": COSTS["target_s"], "target_item_s": COSTS["target_item_s"]}
    )
    figures: dict[str, Any] = capacity.run(items=10**7, users=10**6, model_dir=Path(tiny_model.model_dir), top_k=20)
    assert figures["unit_costs"].keys() >= COSTS.keys()
    assert all(cost["value"] >= 0 for cost in figures["unit_costs"].values())
    page = as_markdown(figures)
    assert "1e+07 items, 1e+06 users" in page
    assert "nothing of this size was run" in page
    for row in [*figures["work"], *figures["breaks"]]:
        assert f"| {row.get('work', row.get('what'))} |" in page
