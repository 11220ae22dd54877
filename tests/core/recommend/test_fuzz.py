"""The doors for request files under malformed input: never a crash, a hang or a wrong row."""

import csv
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from genrec_core.errors import GenrecError
from genrec_core.recommend.constraints import Constraints, Selection
from genrec_core.recommend.predict import predict_file, rejected_path
from genrec_core.recommend.recommender import Ranking
from genrec_core.recommend.request_files import Rejected, Request, read_requests
from genrec_core.recommend.rules import Rule
from genrec_core.settings import PredictionSettings
from tests.core.broken_bytes import broken

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel

# What breaks parsers: separators, quotes, brackets, line ends, marks, bytes that are no text, numbers at their edges.
PIECES = [
    *(
        b",",
        b'"',
        b"'",
        b'""',
        b"[",
        b"]",
        b" ",
        b"\t",
        b"\n",
        b"\r\n",
        b"\r",
        b"\0",
        b"\xef\xbb\xbf",
        b"\xff",
        b"\xc3",
    ),
    *("\u00a0".encode(), "\u2028".encode(), "\u0661".encode(), "\ufeff".encode(), b"\x0b", b"\x1c", b"\x85", b";"),
    *(b"-", b"--1", b"+5", b"1_0", b"1e5", b"0x1", b"007", b"9" * 18, b"9" * 19, b"-" + b"9" * 18, b"1.0", b"nan"),
    *(
        b"user_id",
        b"item_ids",
        b"rule",
        b"allow",
        b"user_id,item_ids\n",
        b"brand = OPI",
        b"not ",
        b"(",
        b"5 6",
        b"=1+1",
    ),
]
RULES = ["", "", "brand = OPI", '"brand in (a, ""b"")"', "price < 5", "price <", "brnad = x", "(" * 60 + "a"]
FAULTS = re.compile(
    r"no requests in it|none of its \d+ lines|names \w+ twice|line \d+: (the file is UTF-16|.* is no header)"
)
CLEAN_TEXT = re.compile(rb"[!-+\--:<-~]+( -?[0-9]{1,18})*")
CLEAN_CELL = re.compile(rb"(-?[0-9]{1,18}( -?[0-9]{1,18})*)?")
SECONDS = 5.0  # a file takes a millisecond


class Echo:
    """Recommends a user's own newest items: the output tells who was served what."""

    text_ids = False

    def rank(self, histories: list[list[int]], top_k: int, *, pool: Executor, **options: object) -> Ranking:
        counts = np.array([min(len(history), top_k) for history in histories])
        items = np.zeros((len(histories), top_k), dtype=np.int64)
        for user, history in enumerate(histories):
            items[user, : counts[user]] = history[::-1][:top_k]
        nothing = np.zeros(len(histories), dtype=np.int64)
        return Ranking(items, items.astype(np.float32), counts, nothing, counts == 0)

    def selection(self, *constraints: Constraints) -> Selection:
        for each in constraints:
            if each.rule is not None:
                Rule.parse(each.rule)
        return Selection(None, 1)

    def excludes_seen(self, asked: bool | None) -> bool:
        return True


def malformed(draw: random.Random, forms: Sequence[int] = range(4)) -> bytes:
    """A small request file in one of the forms, with some faults; now and then nothing but faults."""
    if draw.random() < 0.05:
        return b"".join(draw.choices(PIECES, k=draw.randrange(40)))
    return broken(draw, "\n".join(_lines(draw, draw.choice(forms))).encode(), PIECES)


def _lines(draw: random.Random, form: int) -> list[str]:
    histories = [" ".join(str(draw.randrange(-9, 999)) for _ in range(draw.randrange(5))) for _ in range(6)]
    if form == 0:
        return [f"{user} {history}" for user, history in enumerate(histories)]
    if form == 1:
        return ["user_id,item_ids", *(f"{user},{history}" for user, history in enumerate(histories))]
    if form == 2:
        listed = [", ".join(history.split()) for history in histories]
        return ["item_ids,when,user_id", *(f'"[{items}]",now,"u""{user}"' for user, items in enumerate(listed))]
    cells = [
        f"{user},{history},{draw.choice(histories)},,{draw.choice(RULES)}" for user, history in enumerate(histories)
    ]
    return ["user_id,item_ids,allow,deny,rule", *cells]


def check(content: bytes, folder: Path, served: bool) -> list[Request | Rejected]:
    """Every line is accounted for once, a request is what its line says, and a clean line is never rejected.

    Returns:
        What its lines are; nothing where the file was refused.
    """
    source = folder / "requests"
    source.write_bytes(content)
    faults = ""
    try:
        outcomes = list(read_requests(source, Echo().selection))
    except GenrecError as error:
        outcomes, faults = [], str(error)
        assert FAULTS.search(faults), faults
    lines = content.split(b"\n")
    lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
    numbered = [(number, raw.rstrip(b"\r")) for number, raw in enumerate(lines, 1) if raw.strip()]
    header = _header(numbered[0][1]) if numbered else None
    if faults:
        assert not numbered[header is not None :] or re.search(r"twice|UTF-16|is no header", faults)
        return []
    assert [outcome.line for outcome in outcomes] == [number for number, _ in numbered[header is not None :]]
    by_number = dict(numbered)
    for outcome in outcomes:
        _check_outcome(outcome, by_number[outcome.line], header)
    if served:
        _check_served(outcomes, source, folder / "out.csv")
    return outcomes


def _header(raw: bytes) -> list[str] | None:
    """The delimiter and the column names of a CSV header."""
    for delimiter in ",;\t|":
        names = [name.strip().strip('"').strip().lower() for name in raw.decode(errors="replace").split(delimiter)]
        if "user_id" in names and "item_ids" in names:
            return [delimiter, *names]
    return None


def _check_outcome(outcome: Request | Rejected, raw: bytes, header: list[str] | None) -> None:
    if isinstance(outcome, Rejected):
        assert outcome.reason
        assert not _is_clean(raw, header), (raw, outcome)
        return
    text = raw.decode()
    if header is None:
        user, *items = text.split()
        assert (outcome.user_id, outcome.item_ids) == (user, [int(item) for item in items])
        return
    (row,) = csv.reader([text], delimiter=header[0])
    cells = dict(zip(header[1:], row, strict=True))
    assert outcome.user_id == cells["user_id"].strip() != ""
    assert outcome.item_ids == _ids(cells["item_ids"])
    for name in ("allow", "deny"):
        wanted = tuple(sorted(set(_ids(cells.get(name, "")))))
        assert (getattr(outcome.constraints, name) or ()) == wanted
    assert (outcome.constraints.rule or "") == cells.get("rule", "").strip()


def _ids(cell: str) -> list[int]:
    assert re.fullmatch(r"[-0-9\s,'\"\[\]().]*", cell), cell
    return [int(found) for found in re.findall(r"(-?[0-9]+)(?:\.0*)?(?![0-9.])", cell)]


def _is_clean(raw: bytes, header: list[str] | None) -> bool:
    """Whether nothing at all is the matter with a line, by the narrowest reading."""
    if header is None:
        return CLEAN_TEXT.fullmatch(raw) is not None
    cells = raw.split(header[0].encode())
    if b'"' in raw or len(cells) != len(header[1:]) or not re.fullmatch(rb"[ -~]*", raw):
        return False
    of = dict(zip(header[1:], cells, strict=True))
    lists = [of.get(name, b"") for name in ("item_ids", "allow", "deny")]
    return bool(of["user_id"].strip()) and all(map(CLEAN_CELL.fullmatch, lists)) and not of.get("rule", b"").strip()


def _check_served(outcomes: list[Request | Rejected], source: Path, output: Path) -> None:
    """The whole way to the file of predictions."""
    requests = [outcome for outcome in outcomes if isinstance(outcome, Request)]
    settings = PredictionSettings(top_k=3, batch_users=1, workers=2)
    try:
        predict_file(Echo(), source, output, settings, show_progress=False)
    except GenrecError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert FAULTS.search(said)
        assert not requests
        return
    with output.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    wanted = [[r.user_id, *(map(str, r.item_ids[::-1][:3])), *[""] * (3 - len(r.item_ids))] for r in requests]
    assert rows == wanted
    rejected = rejected_path(output)
    if len(requests) < len(outcomes):
        with rejected.open(newline="") as file:
            listed = [int(row["line"]) for row in csv.DictReader(file)]
        assert listed == [outcome.line for outcome in outcomes if isinstance(outcome, Rejected)]
    else:
        assert not rejected.exists()


def fuzz(files: int, folder: Path, served_every: int) -> None:
    for seed in range(files):
        content = malformed(random.Random(seed))
        began = time.monotonic()
        try:
            check(content, folder, served=seed % served_every == 0)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {content!r}") from error
        assert time.monotonic() - began < SECONDS, f"seed {seed} took too long"


def test_malformed_files_never_crash_hang_or_give_a_wrong_row(tmp_path: Path) -> None:
    fuzz(2000, tmp_path, served_every=10)


def test_the_command_counts_what_became_of_each_input(tiny_model: "TinyModel") -> None:
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.fuzz",
        "--inputs",
        "90",  # and four tables
        "--model_dir",
        str(tiny_model.model_dir),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["faults"], found["text"]["inputs"], found["csv"]["inputs"], found["http"]["inputs"]) == (
        0,
        30,
        30,
        30,
    )
    assert found["tables"]["inputs"] == 4
    for door, outcome in (("text", "requests"), ("csv", "rejected_lines"), ("http", "400"), ("http", "200")):
        assert found[door][outcome] > 0


@pytest.mark.slow
def test_a_hundred_thousand_malformed_files_do_not_either(tmp_path: Path) -> None:
    fuzz(100_000, tmp_path, served_every=20)
