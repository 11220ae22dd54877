"""The door for tables under malformed input: read, or refused in one line; never a crash, never an id of nobody's."""

import io
import json
import random
import re
from pathlib import Path

import polars as pl

from genrec_core.data.sources import load_tables, receive_raw
from genrec_core.errors import GenrecError
from tests.core.broken_bytes import broken

PIECES = [
    *(b",", b'"', b'""', b"'", b"[", b"]", b"{", b"}", b":", b" ", b"\t", b"\n", b"\r\n", b"\r", b"\0", b"|", b";"),
    *(b"\xef\xbb\xbf", b"\xff", b"\xc3", "\u00a0".encode(), "\u2028".encode(), b"\\N", b"\\u0000", b"\\ud800"),
    *(b"-", b"1e5", b"007", b"9" * 19, b"1.5", b"nan", b"inf", b"-0", b"2024-13-45", b"item_id", b"timestamp"),
]  # fmt: skip
USERS, ITEMS = ["u1", "u 2", "\u00fc3"], ["i-1", "i,2", 'i"3', "4"]
FORMS = ("csv", "tsv", "jsonl", "json", "parquet")


def table(draw: random.Random, rows: list[dict[str, object]], form: str) -> bytes:
    if form in ("jsonl", "json"):
        lines = [json.dumps(row) for row in rows]
        return ("\n".join(lines) if form == "jsonl" else f"[{', '.join(lines)}]").encode()
    content = io.BytesIO()
    frame = pl.DataFrame(rows)
    if form == "parquet":
        frame.write_parquet(content)
    else:
        frame.write_csv(content, separator="," if form == "csv" else "\t")
    return content.getvalue()


def shop(draw: random.Random, folder: Path) -> list[Path]:
    """Write two small tables in any forms, one or both of them malformed."""
    drawn = [(draw.choice(USERS), draw.choice(ITEMS), draw.randrange(6), 1_400_000_000 + n) for n in range(8)]
    bought = [dict(zip(("user_id", "item_id", "rating", "timestamp"), row, strict=True)) for row in drawn]
    items = [{"item_id": item, "title": f"Title {item}", "price": 1.5, "tags": "a|b"} for item in ITEMS]
    paths = []
    for name, rows in (("interactions", bought), ("items", items)):
        form = draw.choice(FORMS)
        paths.append(folder / f"{name}.{form}")
        content = table(draw, rows, form)
        paths[-1].write_bytes(broken(draw, content, PIECES) if draw.random() < 0.7 else content)
    return paths


def check(seed: int, folder: Path) -> bool:
    """Receive one malformed shop; whether it was read."""
    raw, target = folder / f"in-{seed}", folder / f"out-{seed}"
    raw.mkdir()
    paths = shop(random.Random(seed), raw)
    refused = ""
    try:
        facts = receive_raw(str(raw), target)
    except GenrecError as error:
        refused = str(error)
    if refused:
        assert "\n" not in refused
        assert len(refused) < 1000, refused
        assert not target.exists()
        return False
    tables = load_tables(target)
    known = set(tables.items["item_id"].to_list())
    bought = set(tables.histories["item_ids"].explode().to_list())
    assert bought <= known
    assert facts["interactions"] == tables.histories["item_ids"].list.len().sum() <= facts["read"]
    if not any(path.suffix == ".parquet" for path in paths):  # those are compressed
        held = re.sub(r'[\s"\\]', "", "".join(path.read_text(encoding="utf-8") for path in paths))
        for item in known:
            assert re.sub(r'[\s"\\]', "", str(item)) in held or not str(item).isascii()
    return True


def test_malformed_tables_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    read = [check(seed, tmp_path) for seed in range(300)]
    assert 30 < sum(read) < 270
