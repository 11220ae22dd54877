"""The inbox lists whole files only, and gives each content of each name a key of its own."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_core.errors import GenrecError
from genrec_core.storage.inbox import FolderInbox, RequestFile, find_file


def put(folder: Path, name: str, content: str = "1 2 3\n", age_seconds: float = 60) -> Path:
    path = folder / name
    path.write_text(content)
    then = time.time() - age_seconds
    os.utime(path, (then, then))
    return path


def test_what_is_no_whole_file_is_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "a.txt")
    put(tmp_path, "b.csv")
    put(tmp_path, ".hidden")
    put(tmp_path, "c.parquet.part")
    put(tmp_path, "being written.txt", age_seconds=1)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(put(tmp_path, "b.csv"))
    assert [file.name for file in FolderInbox(tmp_path).files()] == ["a.txt", "b.csv"]
    assert len(FolderInbox(tmp_path, settle_seconds=0).files()) == 3


def test_a_file_keeps_its_key_and_new_content_gets_another(tmp_path: Path) -> None:
    inbox = FolderInbox(tmp_path)
    put(tmp_path, "a.txt", age_seconds=100)
    (first,) = inbox.files()
    assert inbox.files() == [first]
    assert first.key.startswith("a.txt-")
    put(tmp_path, "a.txt", "1 2 4\n", age_seconds=50)
    (second,) = inbox.files()
    assert second.key != first.key
    assert find_file(inbox, second.key) == second
    with pytest.raises(GenrecError, match="removed or changed"):
        find_file(inbox, first.key)


def test_a_file_is_fetched_whole_or_not_at_all(tmp_path: Path) -> None:
    inbox, target = FolderInbox(tmp_path), tmp_path / "out" / "requests.txt"
    put(tmp_path, "a.txt", "7 1 2\n")
    (file,) = inbox.files()
    inbox.fetch(file, target)
    assert target.read_text() == "7 1 2\n"
    target.unlink()
    put(tmp_path, "a.txt", "8 1 2\n", age_seconds=30)
    with pytest.raises(GenrecError, match="changed since it was seen"):
        inbox.fetch(file, target)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(GenrecError, match="gone"):
        inbox.fetch(file, target)
    assert not list(target.parent.iterdir())


def test_no_file_outside_the_inbox_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    put(tmp_path, "secret.txt")
    with pytest.raises(GenrecError, match="no name of a file"):
        FolderInbox(tmp_path / "inbox").fetch(RequestFile("../secret.txt", 1, "1"), tmp_path / "out")


def test_an_inbox_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(GenrecError, match=r"nowhere: no inbox .* create the folder"):
        FolderInbox(tmp_path / "nowhere").files()


@given(name=st.text(min_size=1, max_size=255), other=st.text(min_size=1), size=st.integers(0), stamp=st.text())
def test_a_key_is_a_folder_name_and_a_partition_for_any_name(name: str, other: str, size: int, stamp: str) -> None:
    file = RequestFile(name, size, stamp)
    assert Path(file.key).name == file.key
    assert file.key.isascii()
    assert len(file.key) < 100
    assert ".." not in file.key
    assert other == stamp or RequestFile(name, size, other).key != file.key
