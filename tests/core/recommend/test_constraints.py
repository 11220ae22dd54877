"""Masks of constraints: made once, kept within bounds, propagated once; and the attributes that an export carries."""

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_core.errors import GenrecError
from genrec_core.recommend import constraints
from genrec_core.recommend.constraints import CatalogueMasks, Constraints
from genrec_core.recommend.recommender import Recommender

CatalogOf = Callable[[np.ndarray], pl.DataFrame]
HISTORY_ROWS = [3, 50, 7]


def test_lists_and_rule_hold_together_and_seen_items_stay_out(ruled: Recommender) -> None:
    ids = ruled.item_ids
    history = ids[HISTORY_ROWS].tolist()
    rule = "brand = even and not category = Tens 2"
    (items,) = ruled.recommend([history], 90, allow=ids[:60].tolist(), deny=[int(ids[4])], rule=rule)
    wanted = {row for row in range(0, 60, 2) if row // 10 != 2} - {4} - set(HISTORY_ROWS)
    assert set(items.tolist()) == set(ids[sorted(wanted)].tolist())


@pytest.mark.parametrize("ranking", ["generative", "hybrid", "dense"])
def test_a_rule_that_leaves_fewer_items_than_asked_for_gives_them_all(ruled: Recommender, ranking: str) -> None:
    found = ruled.rank(
        [ruled.item_ids[[70]].tolist(), []], 20, ranking=ranking, allowed=ruled.allowed(rule="price <= 5")
    )
    assert found.counts.tolist() == [5, 5]
    assert set(found.of(0).tolist()) == set(found.of(1).tolist()) == set(ruled.item_ids[1:6].tolist())


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_list_under_constraints_is_the_best_of_what_they_leave(ruled: Recommender, data: st.DataObject) -> None:
    ids = ruled.item_ids
    rows = st.sets(st.integers(0, len(ids) - 1), min_size=1)
    allow, deny = data.draw(st.none() | rows), data.draw(st.none() | rows)
    rule = data.draw(st.sampled_from([None, "brand = Odd", "price > 40 or category = tens 0"]))
    left = set(range(len(ids)) if allow is None else allow) - (deny or set())
    if rule == "brand = Odd":
        left = {row for row in left if row % 2}
    elif rule:
        left = {row for row in left if row > 40 or row < 10}
    given = {"allow": allow and ids[list(allow)].tolist(), "deny": deny and ids[list(deny)].tolist(), "rule": rule}
    if not left:
        with pytest.raises(GenrecError, match="leave no item"):
            ruled.allowed(**given)
        return
    history = [ids[HISTORY_ROWS].tolist()]
    everything = ruled.rank(history, len(ids), exclude_seen=False).of(0).tolist()
    wanted = [item for item in everything if item in set(ids[sorted(left)].tolist())]
    found = ruled.rank(history, len(ids), exclude_seen=False, allowed=ruled.allowed(**given)).of(0).tolist()
    assert sorted(found) == sorted(wanted)
    assert found[:3] == wanted[:3]


def test_equal_constraints_share_one_mask_and_it_cannot_be_changed(ruled: Recommender) -> None:
    ids = ruled.item_ids.tolist()
    first = ruled.allowed(ids[:5], [ids[3]], "brand = Even")
    again = ruled.allowed(reversed(ids[:5]), [ids[3], ids[3]], "brand = Even")
    assert first is again
    assert first is not None
    with pytest.raises(ValueError, match="read-only"):
        first[0] = False
    assert ruled.allowed() is None
    assert Constraints.of([3, 1, 3], (), None) == Constraints.of([1, 3])
    assert Constraints.of([]) != Constraints.of()


def test_users_of_one_call_may_have_masks_of_their_own(ruled: Recommender) -> None:
    histories = [ruled.item_ids[[row, row + 1]].tolist() for row in range(12)]
    masks = [ruled.allowed(rule=f"brand = {('Even', 'Odd')[user % 2]}") if user % 3 else None for user in range(12)]
    together = ruled.rank(histories, 30, allowed=masks)
    for user, (history, mask) in enumerate(zip(histories, masks, strict=True)):
        assert together.of(user).tolist() == ruled.rank([history], 30, allowed=mask).of(0).tolist()
    with pytest.raises(GenrecError, match="11 masks for 12 users"):
        ruled.rank(histories, 30, allowed=masks[1:])


def test_a_mask_that_its_owner_changes_is_read_anew(ruled: Recommender) -> None:
    mask = ruled.allowed(rule="price > 17")
    assert mask is not None
    own, history = mask.copy(), [ruled.item_ids[HISTORY_ROWS].tolist()]
    for allowed in (mask, ~mask):
        own[:] = allowed
        for ranking in ("generative", "hybrid"):
            listed = ruled.rank(history, 4, allowed=own, ranking=ranking).of(0).tolist()
            assert set(listed) <= set(ruled.item_ids[allowed].tolist())
            assert listed


def test_the_masks_that_were_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraints, "_MASK_BYTES", 20)  # two masks of ten items
    made: list[int] = []
    masks = CatalogueMasks(10, lambda items: made.extend(items) or np.array(items), lambda: pytest.fail("no rule"))
    for item in (1, 2, 1, 3, 1, 2):
        selection = masks.selection(Constraints.of([item]))
        assert selection.mask is not None
        assert selection.mask.nonzero()[0].tolist() == [item]
    assert made == [1, 2, 3, 2]  # 2 was used longest ago when 3 came
    assert len(masks._selections) == 2


def test_masks_beyond_the_caches_bytes_are_made_again() -> None:
    masks = CatalogueMasks(1 << 20, lambda items: np.array(items), lambda: pytest.fail("no rule was given"))
    for item in range(100):
        assert masks.selection(Constraints.of([item])).count == 1
    assert len(masks._selections) * masks.n_items == 64 << 20


def test_values_that_no_item_has_are_told(ruled: Recommender) -> None:
    selection = ruled.selection(Constraints.of(rule="brand = Evem or brand = Odd"))
    assert selection.warnings == ("no item has the brand 'evem'",)
    assert selection.count == 45
    with pytest.raises(GenrecError, match=r"leave no item of the catalogue \(no item has the brand 'evem'"):
        ruled.allowed(rule="brand = Evem")


def test_a_model_without_attributes_says_that_rules_need_them(tiny_recommender: Recommender) -> None:
    with pytest.raises(GenrecError, match=r"holds no catalogue .*, which rules need; export the model again"):
        tiny_recommender.allowed(rule="brand = OPI")


def test_rules_of_a_run_and_of_its_requests_need_no_polars(ruled: Recommender, ruled_dir: Path, tmp_path: Path) -> None:
    ids = ruled.item_ids
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(f"user_id,item_ids,rule\n1,{ids[3]},price < 20\n2,{ids[3]},\n")
    code = "import sys; sys.modules['polars'] = None; from genrec_core.cli.main import main; sys.exit(main())"
    paths = ["--model_dir", str(ruled_dir), "--input_path", str(source), "--output_path", str(output)]
    command = [sys.executable, "-c", code, "predict", *paths, "--topk", "60", "--rule", "brand = even"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with output.open(newline="") as file:
        found = {
            row["user_id"]: {int(row[name]) for name in row if name != "user_id" and row[name]}
            for row in csv.DictReader(file)
        }
    assert found == {"1": set(ids[2:20:2].tolist()), "2": set(ids[::2].tolist())}
