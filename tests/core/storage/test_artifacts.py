"""A folder is replaced whole: a process that dies in the middle, and readers beside it, always find one of the two."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import (
    atomic_folder,
    read_json,
    recovered,
    verify_manifest,
    write_json,
    write_manifest,
)

REPLACE_AND_DIE = """
import os, pathlib, sys
from genrec_core.storage.artifacts import atomic_folder, write_json, write_manifest

rename = pathlib.Path.rename


def die_before_the_new_folder_is_in_place(path, target):
    if path.name.endswith(".part"):
        os._exit(9)
    return rename(path, target)


pathlib.Path.rename = die_before_the_new_folder_is_in_place
with atomic_folder(pathlib.Path(sys.argv[1])) as part:
    write_json(part / "content.json", "new")
    write_manifest(part)
"""


def write(folder: Path, content: str) -> None:
    with atomic_folder(folder) as part:
        write_json(part / "content.json", content)
        write_manifest(part)


@pytest.fixture
def cut_off(tmp_path: Path) -> Path:
    """A folder whose writer died between moving the old one away and the new one in."""
    folder = tmp_path / "state"
    write(folder, "old")
    assert subprocess.run([sys.executable, "-c", REPLACE_AND_DIE, str(folder)], check=False).returncode == 9
    assert not folder.exists()
    return folder


def test_a_reader_finds_the_old_folder_of_a_writer_that_died(cut_off: Path) -> None:
    verify_manifest(cut_off)
    assert read_json(cut_off / "content.json") == "old"


def test_a_file_in_it_is_found_as_well(cut_off: Path) -> None:
    assert read_json(cut_off / "content.json") == "old"


def test_a_link_to_it_leads_to_the_old_folder(cut_off: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(cut_off)
    assert read_json(recovered(tmp_path / "current") / "content.json") == "old"


def test_the_next_writer_replaces_it_and_leaves_nothing_aside(cut_off: Path) -> None:
    write(cut_off, "newer")
    assert read_json(cut_off / "content.json") == "newer"
    left = [path.name for path in cut_off.parent.iterdir() if not path.name.endswith(".part")]
    assert left == ["state"]


def test_what_another_folder_left_aside_is_not_taken(cut_off: Path) -> None:
    assert not recovered(cut_off.with_name("stat")).exists()
    (old,) = cut_off.parent.glob("*.old")
    old.rename(old.with_name(old.name.replace(".state.", ".state.best.")))
    assert not recovered(cut_off).exists()


def test_a_folder_that_was_never_there_is_still_missing(tmp_path: Path) -> None:
    assert not recovered(tmp_path / "nowhere" / "state").exists()
    with pytest.raises(GenrecError, match="never finished"):
        verify_manifest(tmp_path / "state")


def test_readers_beside_a_living_writer_disturb_nothing(tmp_path: Path) -> None:
    folder, done = tmp_path / "state", threading.Event()
    write(folder, "0")

    def look() -> None:
        while not done.is_set():
            recovered(folder)

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(1, 150):
        write(folder, str(number))
    done.set()
    for reader in readers:
        reader.join()
    verify_manifest(folder)
    assert read_json(folder / "content.json") == "149"
    assert not list(tmp_path.glob("*.old"))
    assert not list(tmp_path.glob("*.gone"))
    assert not list(tmp_path.glob("*.part"))
