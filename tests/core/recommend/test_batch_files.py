"""Batch files: constraints of each request, shards that join to the whole, Parquet, and kills at any moment."""

import csv
import random
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_core.cli.main import main
from genrec_core.errors import GenrecError
from genrec_core.recommend import parquet_files
from genrec_core.recommend.constraints import Constraints
from genrec_core.recommend.predict import PredictionReport, predict_file, rejected_path
from genrec_core.recommend.recommender import Recommender
from genrec_core.recommend.request_files import Shard
from genrec_core.settings import PredictionSettings


def predicted(
    recommender: Recommender, source: Path, output: Path, shard: str | None = None, **settings: Any
) -> PredictionReport:
    chosen = PredictionSettings(**{"top_k": 5, "beams": 8, "batch_users": 2, "workers": 2, **settings})
    part = Shard.parse(shard) if shard else None
    return predict_file(recommender, source, output, chosen, shard=part, show_progress=False)


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]


# --- constraints of a request -----------------------------------------------------------------------------------------


def test_each_request_may_have_constraints_of_its_own(ruled: Recommender, tmp_path: Path) -> None:
    ids = ruled.item_ids.tolist()
    history = f"{ids[3]} {ids[50]}"
    (tmp_path / "in.csv").write_text(
        "user_id,item_ids,allow,deny,rule\n"
        f"plain,{history},,,\n"
        f"odd,{history},,,brand = Odd and price > 60\n"
        f"few,{history},{ids[8]} {ids[9]} -4,,\n"
        f'both,{history},"[{ids[8]}, {ids[9]}]",{ids[8]},brand = Odd\n'
        f'new,,,,"category in (""Tens 1"", tens 2)"\n'
        f"none,{history},{ids[8]},{ids[8]},\n"
        f"bad,{history},,,brnad = Odd\n"
        f"bad,{history},x,,\n"
        f"odd again,{history},,,brand = Odd and price > 60\n"
        f"typo,{history},,,brand = Odd or brand = Evne\n"
    )
    report = predicted(ruled, tmp_path / "in.csv", tmp_path / "out.csv")
    rows = {row[0]: [int(cell) for cell in row[1:] if cell] for row in rows_of(tmp_path / "out.csv")}
    assert list(rows) == ["plain", "odd", "few", "both", "new", "odd again", "typo"]
    asked = [ids[3], ids[50]]
    assert rows["plain"] == ruled.recommend([asked], 5, beams=8)[0].tolist()
    assert rows["odd"] == ruled.recommend([asked], 5, beams=8, rule="brand = Odd and price > 60")[0].tolist()
    assert rows["odd again"] == rows["odd"]
    assert sorted(rows["few"]) == sorted([ids[8], ids[9]])
    assert rows["both"] == [ids[9]]
    assert set(rows["new"]) <= set(ids[10:30])
    reasons = {row[0]: row[1] for row in rows_of(rejected_path(tmp_path / "out.csv"))}
    assert "leave no item" in reasons["7"]
    assert "'brnad' is no field" in reasons["8"]
    assert "item 'x' is not an integer id" in reasons["9"]
    assert (report.users, report.short_rows, report.rejected) == (7, 2, 3)
    assert report.warnings == ["no item has the brand 'evne'"]
    said = "\n".join(report.lines(tmp_path / "out.csv"))
    assert "2 users got fewer than 5 items: no more are left for them" in said


def test_requests_of_equal_constraints_are_decoded_together(
    ruled: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    start = ruled.scorer.start

    def counted(histories: Any) -> Any:
        batches.append(len(histories.lengths))
        return start(histories)

    monkeypatch.setattr(ruled.scorer, "start", counted)
    item = ruled.item_ids[3]
    lines = [f"{user},{item},brand = {('Even', 'Odd')[user % 2]}" for user in range(16)]
    (tmp_path / "in.csv").write_text("\n".join(["user_id,item_ids,rule", *lines]))
    predicted(ruled, tmp_path / "in.csv", tmp_path / "out.csv", batch_users=16, workers=1)
    assert batches == [8, 8]


def test_the_constraints_of_the_run_hold_beside_those_of_a_request(ruled: Recommender, tmp_path: Path) -> None:
    ids = ruled.item_ids.tolist()
    (tmp_path / "in.csv").write_text(
        f"user_id,item_ids,rule\n1,{ids[3]},brand = Odd\n2,{ids[3]},\n3,{ids[3]},price < 2\n"
    )
    settings = PredictionSettings(top_k=90, rule="price < 10 or price > 80")
    given = Constraints.of(deny=ids[80:])
    report = predict_file(
        ruled, tmp_path / "in.csv", tmp_path / "out.csv", settings, constraints=given, show_progress=False
    )
    lists = [{int(cell) for cell in row[1:] if cell} for row in rows_of(tmp_path / "out.csv")]
    assert lists == [{ids[row] for row in (1, 5, 7, 9)}, {ids[row] for row in range(1, 10) if row != 3}, {ids[1]}]
    assert report.short_rows == 3


def test_a_run_whose_constraints_leave_nothing_ends_before_any_work(ruled: Recommender, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("1 5\n")
    with pytest.raises(GenrecError, match="leave no item"):
        predicted(ruled, tmp_path / "in.txt", tmp_path / "out.csv", rule="price > 1000")
    with pytest.raises(GenrecError, match="brnad"):
        predicted(ruled, tmp_path / "in.txt", tmp_path / "out.csv", rule="brnad = OPI")
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_the_command_takes_a_rule_and_warns(
    ruled_dir: Path, ruled: Recommender, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.txt").write_text(f"1 {ruled.item_ids[80]}\n")
    paths = ["--input_path", str(tmp_path / "in.txt"), "--output_path", str(tmp_path / "out.csv")]
    options = ["--topk", "9", "--model_dir", str(ruled_dir), "--quiet", "--rule", "price < 4 or brand = Odf"]
    assert main(["predict", *paths, *options]) == 0
    said = capsys.readouterr().err
    assert "genrec: warning: no item has the brand 'odf'" in said
    assert "genrec: warning: 3 items may be recommended, fewer than --topk" in said
    assert {int(cell) for cell in rows_of(tmp_path / "out.csv")[0][1:] if cell} == set(ruled.item_ids[1:4].tolist())


# --- the same rows, however the work is spread ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(ruled: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 150 users: long, short and empty histories, blank lines, rules, and malformed lines late."""
    draw, ids = random.Random(5), ruled.item_ids.tolist()
    lines = ["user_id,item_ids,rule"]
    for user in range(150):
        history = " ".join(map(str, draw.choices(ids, k=draw.choice([0, 1, 3, 9, 20]))))
        rule = draw.choice(["", "", "brand = Odd", "price > 30"])
        bad = user > 60 and user % 13 == 0
        lines.append(draw.choice(["bad", f"{user},x,", f"{user},,price > 1e9"]) if bad else f"{user},{history},{rule}")
        lines += [""] * (user % 17 == 0)
    path = tmp_path_factory.mktemp("many") / "in.csv"
    path.write_text("\n".join(lines))
    return path


def test_the_rows_do_not_depend_on_the_number_of_workers(ruled: Recommender, many: Path, tmp_path: Path) -> None:
    outputs = []
    for workers in (1, 2, 7):
        predicted(ruled, many, tmp_path / "out.csv", workers=workers)
        outputs.append((tmp_path / "out.csv").read_bytes() + rejected_path(tmp_path / "out.csv").read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 40])
def test_shards_joined_in_order_are_the_whole_byte_for_byte(
    ruled: Recommender, many: Path, tmp_path: Path, count: int
) -> None:
    whole, parts = tmp_path / "whole.csv", [tmp_path / f"part-{number}.csv" for number in range(1, count + 1)]
    total = predicted(ruled, many, whole)
    reports = [predicted(ruled, many, part, f"{number}/{count}") for number, part in enumerate(parts, 1)]
    assert b"".join(part.read_bytes() for part in parts) == whole.read_bytes()
    rejected = [rows_of(path) for part in parts if (path := rejected_path(part)).exists()]
    assert [row for rows in rejected for row in rows] == rows_of(rejected_path(whole))
    assert sum(report.users for report in reports) == total.users
    assert sum(report.rejected for report in reports) == total.rejected == 7


def test_shards_of_parquet_hold_each_row_once(ruled: Recommender, many: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    pl.DataFrame(
        {"user_id": range(100), "item_ids": [[int(ruled.item_ids[row % 90])] for row in range(100)]}
    ).write_parquet(source, row_group_size=17)
    predicted(ruled, source, tmp_path / "whole.parquet")
    parts = [tmp_path / f"{number}.parquet" for number in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        predicted(ruled, source, part, f"{number}/3")
    assert pl.concat([pl.read_parquet(part) for part in parts]).equals(pl.read_parquet(tmp_path / "whole.parquet"))


@given(st.integers(1, 10**7), st.integers(1, 5000), st.integers(1, 300))
def test_every_line_is_in_one_shard_and_blocks_are_not_divided(total: int, block: int, count: int) -> None:
    ranges = [Shard(number, count).lines(total, block) for number in range(1, count + 1)]
    assert ranges[0].start == 1
    assert ranges[-1].stop == total + 1
    for before, after in pairwise(ranges):
        assert before.stop == after.start
        assert (after.start - 1) % block == 0 or after.start == total + 1
    sizes = [-(-len(lines) // block) for lines in ranges]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    "text", ["", "1", "0/3", "4/3", "-1/3", "1/0", "1/3/5", "a/b", "1.0/3", "1/100001", "9" * 50 + "/3"]
)
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(GenrecError, match="write i/n"):
        Shard.parse(text)


def test_a_shard_without_requests_is_an_empty_part_and_no_error(ruled: Recommender, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text(f"1 {ruled.item_ids[0]}\n")
    assert predicted(ruled, tmp_path / "in.txt", tmp_path / "2.csv", "2/2").users == 0
    assert (tmp_path / "2.csv").read_bytes() == b""
    predicted(ruled, tmp_path / "in.txt", tmp_path / "2.parquet", "2/2")
    assert pl.read_parquet(tmp_path / "2.parquet").shape == (0, 6)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(GenrecError, match="no requests in it"):
        predicted(ruled, tmp_path / "empty.txt", tmp_path / "out.csv", "1/2")
    with pytest.raises(GenrecError, match="no regular file, which shards and Parquet need"):
        predicted(ruled, Path("/dev/null"), tmp_path / "out.csv", "1/2")


# --- Parquet ----------------------------------------------------------------------------------------------------------


def test_parquet_gives_the_rows_of_csv(
    ruled: Recommender, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_files, "SLICE_ROWS", 20)
    rows = [row for row in rows_of(many) if len(row) == 3 and "x" not in row[1]]
    frame = pl.DataFrame(
        {
            "user_id": [row[0] for row in rows],
            "item_ids": [list(map(int, row[1].split())) for row in rows],
            "rule": [row[2] or None for row in rows],
        }
    )
    frame.write_parquet(tmp_path / "in.parquet", row_group_size=33)
    (tmp_path / "in.csv").write_text("user_id,item_ids,rule\n" + "".join(f"{u},{h},{r}\n" for u, h, r in rows))
    for name in ("of_csv.csv", "of_csv.parquet", "of_parquet.csv", "of_parquet.parquet"):
        source = tmp_path / ("in.csv" if name.startswith("of_csv") else "in.parquet")
        report = predicted(ruled, source, tmp_path / name, batch_users=1024)
        assert report.rejected == sum(row[2] == "price > 1e9" for row in rows) > 0
    assert (tmp_path / "of_csv.csv").read_bytes() == (tmp_path / "of_parquet.csv").read_bytes()
    found = pl.read_parquet(tmp_path / "of_parquet.parquet")
    assert found.equals(pl.read_parquet(tmp_path / "of_csv.parquet"))
    assert dict(found.schema) == {"user_id": pl.String, **{f"pred_{rank}": pl.Int64 for rank in range(1, 6)}}
    text = pl.read_csv(tmp_path / "of_csv.csv", schema_overrides={"user_id": pl.String})
    assert found.equals(text)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_integer_users_stay_integers_and_missing_items_are_null(ruled: Recommender, tmp_path: Path) -> None:
    ids = ruled.item_ids.tolist()
    pl.DataFrame(
        {"user_id": [7, 8, 9, None], "item_ids": [ids[:2], None, [], ids[:1]], "allow": [[ids[5]], ids[5:7], [], None]},
        schema_overrides={"user_id": pl.Int32},
    ).write_parquet(tmp_path / "in.parquet")
    report = predicted(ruled, tmp_path / "in.parquet", tmp_path / "out.PARQUET", top_k=3)
    found = pl.read_parquet(tmp_path / "out.PARQUET")
    assert found.schema["user_id"] == pl.Int64
    assert found["user_id"].to_list() == [7, 8, 9]
    assert found.row(0) == (7, ids[5], None, None)
    assert set(found.row(1)[1:]) == {ids[5], ids[6], None}
    assert None not in found.row(2)
    assert report.rejected == 1
    assert rows_of(rejected_path(tmp_path / "out.PARQUET"))[0][:2] == ["4", "user_id is empty"]


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (pl.DataFrame({"user": [1]}), "no column user_id; it has user"),
        (pl.DataFrame({"user_id": [1]}), "no column item_ids"),
        (pl.DataFrame({"user_id": [1], "item_ids": [5]}), "column item_ids is Int64; make it lists of integers"),
        (pl.DataFrame({"user_id": [1.5], "item_ids": [[5]]}), "column user_id is Float64; make it text or integers"),
        (pl.DataFrame({"user_id": [1], "item_ids": [[5]], "rule": [3]}), "column rule is Int64; make it text"),
        (pl.DataFrame({"user_id": [1], "item_ids": [[5]], "deny": [[0.5]]}), "lists of integers or lists of text"),
        (pl.DataFrame({"user_id": [1], "item_ids": [[5]]}).clear(), "no requests"),
    ],
)  # fmt: skip
def test_parquet_of_another_form_is_refused(ruled: Recommender, tmp_path: Path, frame: pl.DataFrame, said: str) -> None:
    frame.write_parquet(tmp_path / "in.parquet")
    with pytest.raises(GenrecError, match=said):
        predicted(ruled, tmp_path / "in.parquet", tmp_path / "out.csv")


def test_damaged_parquet_leaves_the_older_output(ruled: Recommender, tmp_path: Path) -> None:
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pl.DataFrame({"user_id": ["a"] * 500, "item_ids": [[int(ruled.item_ids[0])]] * 500}).write_parquet(source)
    output.write_text("older")
    content = bytearray(source.read_bytes())
    for damaged in (b"no parquet", bytes(content[: len(content) // 2]), b"\0" * 60 + content[60:]):
        source.write_bytes(damaged)
        with pytest.raises(GenrecError, match=r"in\.parquet: cannot be read as Parquet"):
            predicted(ruled, source, output)
    assert output.read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet"]


# --- kills ------------------------------------------------------------------------------------------------------------


def _killed_at_random(ruled_dir: Path, many: Path, tmp_path: Path, name: str, kills: int) -> int:
    """Kill the command at random moments; how often it had published before. The output is old or new, always whole."""
    source, output = tmp_path / "in.csv", tmp_path / name
    lines = many.read_text().splitlines()
    source.write_text("\n".join([lines[0], *lines[1:50] * 10]))
    command = [sys.executable, "-m", "genrec_core.cli", "predict", "--input_path", str(source), "--quiet"]
    command += ["--output_path", str(output), "--model_dir", str(ruled_dir), "--topk", "5", "--batch_users", "4"]
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    whole, seconds = output.read_bytes(), time.monotonic() - began
    draw, published = random.Random(kills), 0
    for _ in range(kills):
        output.write_bytes(b"older")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.3, 1.05) * seconds)
        process.kill()
        process.wait()
        left = output.read_bytes()
        assert left in (b"older", whole)
        published += left == whole
    subprocess.run(command, check=True, capture_output=True)  # what a kill left behind disturbs nothing
    assert output.read_bytes() == whole
    return published


def test_a_kill_at_any_moment_leaves_the_older_output_whole(ruled_dir: Path, many: Path, tmp_path: Path) -> None:
    _killed_at_random(ruled_dir, many, tmp_path, "out.csv", kills=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_many_kills_leave_the_older_output_whole(ruled_dir: Path, many: Path, tmp_path: Path, name: str) -> None:
    assert 0 < _killed_at_random(ruled_dir, many, tmp_path, name, kills=40) < 40
