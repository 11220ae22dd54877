"""Releases: the pointer moves and goes back, parts are kept, withdrawn items stay withdrawn."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.errors import GenrecError
from genrec_core.releases import pointer as releases
from genrec_core.releases.pointer import (
    MODEL,
    RELEASES,
    SERVED,
    Pointer,
    ServedMeanwhileError,
    carry_withdrawn,
    first_pointer,
    read_pointer,
    require_pointer,
    served_model,
    served_pointer,
    write_pointer,
    write_release,
)
from genrec_core.storage.artifacts import write_manifest
from genrec_core.storage.folders import set_latest

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel


def served_so_far(*versions: str) -> Pointer:
    pointer = first_pointer(versions[0], "first")
    for version in versions[1:]:
        pointer = pointer.moved(version, "newer")
    return pointer


def serve(root: Path, name: str, pointer: Pointer) -> None:
    (root / SERVED / name).mkdir(parents=True)
    write_pointer(root / SERVED / name, pointer)
    set_latest(SERVED, name, root)


def test_going_back_twice_reaches_the_release_before_the_last_two() -> None:
    pointer = served_so_far("a", "b", "c")
    once = pointer.moved_back(None, "bad")
    assert (once.version, once.before, once.reason) == ("b", ("a",), "bad")
    twice = once.moved_back(None, "bad too")
    assert (twice.version, twice.before) == ("a", ())
    with pytest.raises(GenrecError, match="a is the first release"):
        twice.moved_back(None, "")


def test_a_release_that_was_served_once_can_be_named_and_no_other() -> None:
    back = served_so_far("a", "b", "c").moved_back("a", "")
    assert (back.version, back.before) == ("a", ())
    forth = back.moved_back("c", "it was right")
    assert (forth.version, forth.before) == ("c", ("a",))
    with pytest.raises(GenrecError, match="d was never served; go back to one of a, b, c"):
        forth.moved_back("d", "")


def test_the_same_release_again_does_not_become_its_own_predecessor() -> None:
    assert served_so_far("a", "b").moved("b", "again").before == ("a",)


def test_the_pointer_is_found_by_the_storage(tmp_path: Path) -> None:
    assert served_pointer(tmp_path) is None
    with pytest.raises(GenrecError, match="no release is served yet"):
        served_model(tmp_path)
    serve(tmp_path, "run-1", served_so_far("a", "b", "c"))
    assert served_pointer(tmp_path) == served_so_far("a", "b", "c")
    with pytest.raises(GenrecError, match="no version c of model_release"):
        served_model(tmp_path)
    (tmp_path / RELEASES / "c" / MODEL).mkdir(parents=True)
    assert served_model(tmp_path) == tmp_path / RELEASES / "c" / MODEL


def test_a_pointer_moves_only_from_what_is_still_served(tmp_path: Path) -> None:
    releases.serve(first_pointer("a", "first"), tmp_path)
    read = require_pointer(tmp_path)
    releases.serve(read.moved("b", "quicker"), tmp_path)
    with pytest.raises(ServedMeanwhileError, match="release b was served while this ran, so nothing was moved"):
        releases.serve(read.moved("c", "slower"), tmp_path)
    with pytest.raises(ServedMeanwhileError, match="release b was served"):
        releases.serve(first_pointer("d", "for the first"), tmp_path)
    now = require_pointer(tmp_path)
    assert (now.version, now.before, now.known) == ("b", ("a",), ("a", "b"))
    assert len(list((tmp_path / SERVED).iterdir())) == 3  # the pointers to a and b, and latest.json
    releases.serve(now.moved("c", "again"), tmp_path)
    assert require_pointer(tmp_path).before == ("a", "b")


SERVE_SOME = """
import sys
from pathlib import Path
from genrec_core.releases.pointer import ServedMeanwhileError, require_pointer, serve

for version in sys.argv[2:]:
    while True:
        try:
            serve(require_pointer(Path(sys.argv[1])).moved(version, "race"), Path(sys.argv[1]))
            break
        except ServedMeanwhileError:
            pass
"""


def test_of_processes_that_serve_at_once_no_release_is_lost(tmp_path: Path) -> None:
    releases.serve(first_pointer("first", ""), tmp_path)
    versions = [[f"{name}{number}" for number in range(8)] for name in "abc"]
    command = [sys.executable, "-c", SERVE_SOME, str(tmp_path)]
    running = [subprocess.Popen([*command, *names]) for names in versions]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    pointer = require_pointer(tmp_path)
    assert sorted(pointer.known) == sorted(["first", *(version for names in versions for version in names)])
    assert len(pointer.before) == 24


def test_an_item_withdrawn_while_the_pointer_moves_is_withdrawn_from_what_is_served(
    tmp_path: Path, tiny_model: "TinyModel", monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("a", "b"):
        shutil.copytree(tiny_model.model_dir, tmp_path / RELEASES / version / MODEL)
    releases.serve(first_pointer("a", ""), tmp_path)
    ids, move = np.load(tiny_model.model_dir / "item_ids.npy"), releases.move_latest
    waiting = threading.Thread(target=releases.withdraw_from_served, args=(ids[:1], False, tmp_path))

    def withdraw_meanwhile(*given: Any) -> None:
        waiting.start()
        waiting.join(0.5)
        ModelFolder(tmp_path / RELEASES / "a" / MODEL).withdraw(ids[1:2])  # a command that names the folder
        move(*given)

    monkeypatch.setattr(releases, "move_latest", withdraw_meanwhile)
    releases.serve(require_pointer(tmp_path).moved("b", "newer"), tmp_path)
    waiting.join()
    assert ModelFolder(served_model(tmp_path)).withdrawn() == ids[:2].tolist()


@pytest.mark.parametrize(
    "content", [[], {"version": "a"}, {"version": "../a", "before": [], "known": [], "reason": ""}]
)
def test_a_damaged_pointer_is_refused(tmp_path: Path, content: object) -> None:
    serve(tmp_path, "run-1", first_pointer("a", ""))
    (tmp_path / SERVED / "run-1" / "pointer.json").write_text(json.dumps(content))
    with pytest.raises(GenrecError, match=r"no pointer|not the name of a folder"):
        served_model(tmp_path)


def test_a_release_keeps_its_files_when_the_artefacts_go(tmp_path: Path, tiny_model: "TinyModel") -> None:
    model = shutil.copytree(tiny_model.model_dir, tmp_path / "model")
    ModelFolder(model).withdraw(np.load(model / "item_ids.npy")[:2])
    folder = tmp_path / "release"
    folder.mkdir()
    write_release(folder, {MODEL: model, "checkpoint": tiny_model.checkpoint}, {"version": "a"})
    shutil.rmtree(model)
    write_manifest(folder)
    names = {path.name for path in tiny_model.model_dir.iterdir()}
    assert {path.name for path in (folder / MODEL).iterdir()} == names  # without the list of withdrawn items
    assert json.loads((folder / "release.json").read_text()) == {"version": "a"}


def test_withdrawn_items_stay_withdrawn_in_the_next_release(tmp_path: Path, tiny_model: "TinyModel") -> None:
    old, new = (shutil.copytree(tiny_model.model_dir, tmp_path / name) for name in ("old", "new"))
    ids = np.load(old / "item_ids.npy")
    ModelFolder(old).withdraw(ids[:3])
    ModelFolder(new).withdraw(ids[5:6])
    assert carry_withdrawn(old, new) == 3
    assert ModelFolder(new).withdrawn() == [*ids[:3], ids[5]]
    (old / "withdrawn.json").unlink()
    assert carry_withdrawn(old, new) == 0


def test_a_pointer_reads_as_it_was_written(tmp_path: Path) -> None:
    write_pointer(tmp_path, served_so_far("a", "b"))
    assert read_pointer(tmp_path) == served_so_far("a", "b")
