"""A lock is held by one process or thread at a time, and is free once its process has died."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import LOCK, locked, locked_place

HOLD = """
import pathlib, sys, time
from genrec_core.storage.artifacts import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_that_is_held_is_an_error_at_once_and_free_when_its_process_dies(tmp_path: Path) -> None:
    path = tmp_path / LOCK
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(GenrecError, match=r"^another run works here; stop it$"),
            locked(path, "another run works here; stop it"),
        ):
            pass
        holder.kill()
    with locked(path, "still held"):
        pass


def test_threads_wait_for_each_other(tmp_path: Path) -> None:
    inside: list[int] = []

    def work(number: int) -> None:
        with locked(tmp_path / LOCK):
            inside.append(number)
            assert inside == [number]
            inside.remove(number)
            done.append(number)

    done: list[int] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [0, 1, 2, 3]


def test_an_error_of_the_block_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path / LOCK):
        raise RuntimeError
    with locked(tmp_path / LOCK, "still held"):
        pass


def test_a_lock_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(GenrecError, match=f"^{tmp_path}/file/{LOCK}: cannot be locked"),
        locked(tmp_path / "file" / LOCK),
    ):
        pass
    with (
        pytest.raises(GenrecError, match="nowhere/model: no such folder"),
        locked_place(tmp_path / "nowhere" / "model"),
    ):
        pass
