"""Prediction files: every line accounted for, in order, whole or not at all, in bounded memory."""

import csv
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from genrec_core.errors import GenrecError
from genrec_core.recommend import predict
from genrec_core.recommend.constraints import Constraints, Selection, read_item_list
from genrec_core.recommend.predict import PredictionReport, predict_file, rejected_path
from genrec_core.recommend.recommender import Ranking, Recommender
from genrec_core.settings import PredictionSettings


class Echo:
    """Recommends a user's own items backwards: the output tells who was served what."""

    text_ids = False

    def __init__(self) -> None:
        self.calls: list[int] = []

    def rank(self, histories: list[list[int]], top_k: int, **options: object) -> Ranking:
        self.calls.append(len(histories))
        counts = np.array([min(len(history), top_k) for history in histories])
        items = np.zeros((len(histories), top_k), dtype=np.int64)
        for user, history in enumerate(histories):
            items[user, : counts[user]] = history[::-1][:top_k]
        nothing = np.zeros(len(histories), dtype=np.int64)
        return Ranking(items, items.astype(np.float32), counts, nothing, counts == 0)

    def selection(self, *constraints: Constraints) -> Selection:
        return Selection(None, 10**6)

    def excludes_seen(self, asked: bool | None) -> bool:
        return True


def served(tmp_path: Path, content: str, top_k: int = 2, recommender: Echo | Recommender | None = None, batch: int = 3):
    (tmp_path / "requests").write_text(content)
    settings = PredictionSettings(top_k=top_k, batch_users=batch)
    output = tmp_path / "out.csv"
    report = predict_file(recommender or Echo(), tmp_path / "requests", output, settings, show_progress=False)
    with output.open(newline="") as file:
        return report, list(csv.reader(file))


def test_rows_keep_the_order_of_the_requests(tmp_path: Path) -> None:
    lines = [f"user{number} {number} {number + 1}" for number in range(200)]
    report, rows = served(tmp_path, "\n".join(lines))
    assert rows[0] == ["user_id", "pred_1", "pred_2"]
    assert rows[1:] == [[f"user{number}", str(number + 1), str(number)] for number in range(200)]
    assert (report.users, report.rejected) == (200, 0)


def test_too_few_items_leave_empty_cells_and_are_counted(tmp_path: Path) -> None:
    report, rows = served(tmp_path, "a 1 2\nb 3\n")
    assert rows[1:] == [["a", "2", "1"], ["b", "3", ""]]
    assert report.short_rows == 1


def test_a_user_id_with_commas_and_quotes_survives(tmp_path: Path) -> None:
    _, rows = served(tmp_path, 'user_id,item_ids\n"a,""b""",1 2\n')
    assert rows[1] == ['a,"b"', "2", "1"]


def test_malformed_lines_are_listed_and_the_others_served(tmp_path: Path) -> None:
    report, rows = served(tmp_path, "a 1 2\nb x\nc 3 4\n\nd 1,2\n")
    assert [row[0] for row in rows[1:]] == ["a", "c"]
    with rejected_path(tmp_path / "out.csv").open(newline="") as file:
        rejected = list(csv.DictReader(file))
    assert [(row["line"], row["content"]) for row in rejected] == [("2", "b x"), ("5", "d 1,2")]
    assert "'x' is not an integer id" in rejected[0]["reason"]
    assert report.rejected == 2


def test_without_malformed_lines_an_older_list_of_them_goes(tmp_path: Path) -> None:
    rejected_path(tmp_path / "out.csv").write_text("of an earlier file")
    served(tmp_path, "a 1 2\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "requests"]


def test_a_file_of_malformed_lines_only_is_an_error_and_leaves_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(GenrecError, match=r"none of its 2 lines is a request, the first: line 1: a comma"):
        served(tmp_path, "a,1\nb,2\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv.rejected", "requests"]


class DyingError(Exception):
    """Stands for any failure half-way."""


class Dying(Echo):
    def rank(self, histories: list[list[int]], top_k: int, **options: object) -> Ranking:
        if self.calls:
            raise DyingError
        return super().rank(histories, top_k, **options)


def test_a_failure_half_way_leaves_everything_as_it_was(tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    output.write_text("older")
    rejected_path(output).write_text("older")
    with pytest.raises(DyingError):
        served(tmp_path, "bad x\n" + "a 1 2\n" * 200, recommender=Dying())
    assert output.read_text() == rejected_path(output).read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.csv.rejected", "requests"]


KILLED = """
import os, sys
from pathlib import Path
from genrec_core.recommend.constraints import Selection
from genrec_core.recommend.predict import predict_file
from genrec_core.settings import PredictionSettings

class Killed:
    text_ids = False
    def selection(self, *constraints):
        return Selection(None, 1)

    def excludes_seen(self, asked):
        return True

    def rank(self, *arguments, **options):
        os.kill(os.getpid(), 9)

predict_file(Killed(), Path(sys.argv[1]), Path(sys.argv[2]), PredictionSettings(), show_progress=False)
"""


def test_a_killed_process_leaves_no_output(tmp_path: Path) -> None:
    (tmp_path / "requests").write_text("a 1 2\n")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "requests"), str(tmp_path / "out.csv")]
    assert subprocess.run(command, check=False).returncode == -9
    assert not (tmp_path / "out.csv").exists()


class Masking(Echo):
    """Notes how many masks each block brings; a mask takes 10 bytes."""

    def rank(self, histories: list[list[int]], top_k: int, **options: object) -> Ranking:
        self.masks = [*getattr(self, "masks", []), len({id(mask) for mask in options["allowed"] if mask is not None})]
        return super().rank(histories, top_k, **options)

    def selection(self, *constraints: Constraints) -> Selection:
        return Selection(np.ones(10, dtype=bool), 10) if any(constraints) else super().selection()


def test_a_block_holds_no_more_masks_than_fit_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "_BLOCK_MASK_BYTES", 40)
    rules = [f"user{number},1 2,price < {number % 7}" for number in range(30)]
    recommender = Masking()
    report, rows = served(tmp_path, "\n".join(["user_id,item_ids,rule", *rules]), recommender=recommender, batch=64)
    assert [row[0] for row in rows[1:]] == [f"user{number}" for number in range(30)]
    assert max(recommender.masks) == 4
    assert sum(recommender.calls) == report.users == 30


@pytest.mark.parametrize(("source", "output"), [("a", "folder"), ("a", "a"), ("a.rejected", "a")])
def test_an_output_that_cannot_be_is_refused_before_any_work(tmp_path: Path, source: str, output: str) -> None:
    (tmp_path / source).write_text("a 1 2\n")
    (tmp_path / "folder").mkdir()
    echo = Echo()
    with pytest.raises(GenrecError, match=r"name a file|name another file"):
        predict_file(echo, tmp_path / source, tmp_path / output, PredictionSettings(), show_progress=False)
    assert echo.calls == []
    assert (tmp_path / source).read_text() == "a 1 2\n"


def test_an_output_below_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "requests").write_text("a 1 2\n")
    with pytest.raises(GenrecError, match=r"requests/out\.csv: cannot be written"):
        predict_file(Echo(), tmp_path / "requests", tmp_path / "requests" / "out.csv", PredictionSettings())


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> Iterator[None]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(predict, "_ranked", full)
    with pytest.raises(GenrecError, match="no space is left on this disk"):
        served(tmp_path, "a 1 2\n")
    assert [path.name for path in tmp_path.iterdir()] == ["requests"]


def test_memory_does_not_grow_with_the_number_of_users(tmp_path: Path) -> None:
    def peak(users: int) -> int:
        line = " ".join(map(str, range(20)))
        (tmp_path / "requests").write_text("".join(f"{user} {line}\n" for user in range(users)))
        tracemalloc.start()
        settings = PredictionSettings(top_k=5, batch_users=16)
        predict_file(Echo(), tmp_path / "requests", tmp_path / "out.csv", settings, show_progress=False)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few, many = peak(1000), peak(10_000)
    assert many < 1.3 * few


def test_a_window_ends_early_where_histories_are_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(predict, "_BLOCK_ITEMS", 50)
    echo = Echo()
    line = " ".join(map(str, range(20)))
    served(tmp_path, f"a {line}\n" * 10, recommender=echo)
    assert sorted(echo.calls) == [1, 3, 3, 3]  # threads rank the windows, so they may be called in another order


def test_progress_is_shown_on_stderr_with_a_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "requests").write_text("user_id,item_ids\n\n" + "a,1 2\n" * 7)
    predict_file(Echo(), tmp_path / "requests", tmp_path / "out.csv", PredictionSettings(top_k=2))
    shown = capsys.readouterr()
    assert "7/7" in shown.err
    assert "users/s" in shown.err
    assert shown.out == ""


def test_the_real_recommender_serves_every_kind_of_line(tmp_path: Path, tiny_recommender: Recommender) -> None:
    known = tiny_recommender.item_ids.tolist()
    content = f"user_id,item_ids\n1,{known[0]} {known[1]}\n2,\n3,-4 -5\n2,-4 {known[2]}\n4,[\n"
    report, rows = served(tmp_path, content, top_k=12, recommender=tiny_recommender)
    assert report == PredictionReport(
        users=4, top_k=12, history_items=6, unknown_items=3, empty_histories=2, rejected=1,
        seconds=report.seconds,
    )  # fmt: skip
    assert [row[0] for row in rows[1:]] == ["1", "2", "3", "2"]
    assert rows[2][1:] == rows[3][1:]
    assert all(set(map(int, row[1:])) <= set(known) and len(set(row[1:])) == 12 for row in rows[1:])
    said = "\n".join(report.lines(tmp_path / "out.csv"))
    for part in ("4 users served", "3 history items", "2 users have no known item", "1 malformed lines"):
        assert part in said


def test_the_rows_do_not_depend_on_the_batch_size(tmp_path: Path, tiny_recommender: Recommender) -> None:
    random = np.random.default_rng(1)
    lines = [
        " ".join(map(str, [user, *random.choice(tiny_recommender.item_ids, random.integers(1, 25))]))
        for user in range(40)
    ]
    by_batch = [
        served(tmp_path, "\n".join(lines), 20, recommender=tiny_recommender, batch=batch)[1] for batch in (1, 7)
    ]
    assert by_batch[0] == by_batch[1]


def test_an_item_list_is_read_and_its_faults_named(tmp_path: Path) -> None:
    path = tmp_path / "items"
    path.write_text("item_id\n3\n5 7\n\n")
    assert read_item_list(path, text_ids=False).tolist() == [3, 5, 7]
    path.write_text("3\nfive\n")
    with pytest.raises(GenrecError, match="line 2: item 'five' is not an integer id"):
        read_item_list(path, text_ids=False)
    path.write_bytes("item_id\r\n3\r\n".encode("utf-8-sig"))
    assert read_item_list(path, text_ids=False).tolist() == [3]
    for encoding in ("utf-16", "utf-16-le"):
        path.write_bytes("3\n5\n".encode(encoding))
        with pytest.raises(GenrecError, match=r"items: line 1: UTF-16.*save the file as UTF-8"):
            read_item_list(path, text_ids=False)
    path.write_text("\n")
    with pytest.raises(GenrecError, match="no item id"):
        read_item_list(path, text_ids=False)
    with pytest.raises(GenrecError, match="cannot be read"):
        read_item_list(tmp_path / "absent", text_ids=False)
