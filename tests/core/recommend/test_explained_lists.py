"""Explanations from the command line: printed for one history, and written beside a prediction file."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from genrec_core.cli.main import main
from genrec_core.recommend.explain import Explanation, Reason
from genrec_core.recommend.explained_lists import ExplainedList
from genrec_core.recommend.recommender import Recommender


def explain(ruled_dir: Path, *options: str) -> int:
    return main(["explain", "--model_dir", str(ruled_dir), *options])


def history_of(recommender: Recommender, *rows: int) -> list[int]:
    ids: list[int] = recommender.item_ids[list(rows)].tolist()
    return ids


def test_a_history_and_its_list_are_printed_by_title(
    ruled: Recommender, ruled_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = history_of(ruled, 3, 50, 7)
    assert explain(ruled_dir, "--history", " ".join(map(str, history)), "--topk", "2", "--reasons", "1") == 0
    printed = capsys.readouterr().out.splitlines()
    first, second = ruled.explain(history, ruled.recommend([history], 2)[0].tolist(), reasons=1)
    assert printed[1:4] == [f"       Item {row} [{item}]" for row, item in zip((3, 50, 7), history, strict=True)]
    title = ruled.describe([first.item_id])[0].title
    assert f"  1.  {title} [{first.item_id}]" in printed
    assert any(line.startswith(f"       score {second.score:.2f} (hybrid), place ") for line in printed)
    assert any(line.startswith(f"{first.reasons[0].effect:+7.2f}  Item ") for line in printed)


def test_given_items_are_explained_as_json(
    ruled: Recommender, ruled_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history, items = history_of(ruled, 3, 50), history_of(ruled, 70, 71)
    arguments = ("--history", json.dumps(history), "--items", json.dumps(items), "--ranking", "dense", "--json")
    assert explain(ruled_dir, *arguments) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["item_id"], each["title"]) for each in printed] == [(items[0], "Item 70"), (items[1], "Item 71")]
    for each, explanation in zip(printed, ruled.explain(history, items, ranking="dense"), strict=True):
        assert each["score"] == pytest.approx(explanation.score)
        assert [reason["effect"] for reason in each["reasons"]] == pytest.approx(
            [reason.effect for reason in explanation.reasons]
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--history", ""], "--history holds no item id"),
        (["--history", "1", "--reasons", "-1"], "reasons=-1"),
        (["--history", "1", "--items", "5"], "item 5 is not in the model"),
    ],
)
def test_what_cannot_be_explained_is_one_line(
    ruled_dir: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(ruled_dir, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_history_without_known_items_says_so(ruled_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(ruled_dir, "--history", "5", "--topk", "1") == 0
    assert "no item of the history is known" in capsys.readouterr().out


def test_a_title_stays_on_its_line(ruled: Recommender) -> None:
    reason = Reason(5, -0.5, 0, None, None)
    lines = list(ExplainedList(ruled, [5], [Explanation(5, "dense", -1.0, None, None, [reason])]).lines())
    assert lines == [
        "history, oldest first", "       item 5 [5]", "", "  1.  item 5 [5]", "       score -1.00 (dense)",
        "  -0.50  item 5 [5]",
    ]  # fmt: skip


def predicted(ruled_dir: Path, tmp_path: Path, *options: str) -> tuple[list[list[str]], list[dict[str, Any]]]:
    requests, output = tmp_path / "requests.txt", tmp_path / "out.csv"
    ids = Recommender.open(ruled_dir).item_ids.tolist()
    requests.write_text("".join(f"u{user} {ids[user]} {ids[user + 9]}\n" for user in range(30)) + "new\n")
    arguments = ["--input_path", str(requests), "--output_path", str(output), "--topk", "12", "--quiet", *options]
    assert main(["predict", "--model_dir", str(ruled_dir), *arguments]) == 0
    why = tmp_path / "out.csv.why.jsonl"
    rows = list(csv.reader(output.open(encoding="utf-8")))[1:]
    return rows, [json.loads(line) for line in why.read_text(encoding="utf-8").splitlines()] if why.exists() else []


def test_the_first_requests_of_a_file_are_explained_beside_it(ruled_dir: Path, tmp_path: Path) -> None:
    rows, explained = predicted(ruled_dir, tmp_path, "--explain")
    assert len(explained) == 20
    for row, user in zip(rows, explained, strict=False):
        assert user["user_id"] == row[0]
        assert [str(item["item_id"]) for item in user["items"]] == row[1:11]
        assert {reason["item_id"] for reason in user["items"][0]["reasons"]} == {
            item["item_id"] for item in user["history"]
        }


def test_as_many_requests_as_wanted_are_explained_and_none_by_default(ruled_dir: Path, tmp_path: Path) -> None:
    assert predicted(ruled_dir, tmp_path)[1] == []
    rows, explained = predicted(ruled_dir, tmp_path, "--explain", "99")
    assert len(explained) == len(rows) == 31
    assert [item["score"] for item in explained[-1]["items"]] == [None] * 10


def test_a_stream_has_no_file_beside_it(ruled_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests = tmp_path / "requests.txt"
    requests.write_text("u 1\n")
    paths = ["--input_path", str(requests), "--output_path", "/dev/null"]
    assert main(["predict", "--model_dir", str(ruled_dir), *paths, "--explain"]) == 2
    assert "which --explain needs" in capsys.readouterr().err
