"""The processes that decode: what one has read once the model is open."""

import asyncio
import os
import shutil
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from genrec_core.bundle.item_table import ItemTable
from genrec_core.bundle.model_folder import ITEMS
from genrec_core.errors import GenrecError
from genrec_core.serving.decoder_process import open_warm
from genrec_core.serving.decoders import CORES, SPAWN, Decoder
from genrec_core.serving.models import ServedModel
from genrec_core.storage.artifacts import write_manifest

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel


class WaitingDecoder(Decoder):
    """Its process never opens the model."""

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair()
        self.process = SPAWN.Process(target=_wait, args=(theirs,))
        self.process.start()
        theirs.close()


def _wait(connection: socket.socket) -> None:
    connection.recv(1)


def test_a_warm_model_takes_rules_though_its_folder_is_gone(tiny_model: "TinyModel", tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model.model_dir, tmp_path / "model")
    ids = np.load(folder / "item_ids.npy")
    ItemTable.of(ids, {"brand": ["Even", "Odd"] * (len(ids) // 2)}).save(folder)
    write_manifest(folder)
    recommender = open_warm(folder)
    shutil.rmtree((folder / ITEMS).parent)
    allowed = recommender.allowed(rule="brand = odd")
    assert allowed is not None
    assert allowed.sum() == 45


def test_each_process_has_a_core_of_its_own_where_there_are_as_many(tiny_model: "TinyModel") -> None:
    more = len(CORES) + 1
    for threads, wanted in ((len(CORES), [{core} for core in CORES]), (more, [set(CORES)] * more)):
        model = ServedModel(tiny_model.model_dir, threads)
        try:
            assert [os.sched_getaffinity(decoder.process.pid) for decoder in model.decoders] == wanted
        finally:
            model.retire()


def test_a_core_that_is_not_to_be_had_does_no_harm(tiny_model: "TinyModel") -> None:
    decoder = Decoder(tiny_model.model_dir, core=1023)
    try:
        assert decoder.ready()["items"] == 90
        assert os.sched_getaffinity(decoder.process.pid) == set(CORES)
    finally:
        decoder.close()


def test_a_process_that_dies_in_the_middle_of_its_first_message_is_told_of(tmp_path: Path) -> None:
    decoder = WaitingDecoder(tmp_path)
    decoder._socket.close()
    decoder._socket, theirs = socket.socketpair()
    theirs.sendall(b'{"items": 5')
    theirs.close()
    with pytest.raises(GenrecError, match="the process that opens it died"):
        decoder.ready()
    decoder.close()


def test_a_model_that_is_not_open_in_time_names_the_setting_and_a_closed_one_is_told_apart(tmp_path: Path) -> None:
    for seconds, closed, said in ((0.3, False, "after 0.3 s; give it longer by --open_seconds"), (60, True, "closed")):
        decoder = WaitingDecoder(tmp_path, open_seconds=seconds)
        if closed:
            threading.Timer(0.1, decoder.close).start()
        with pytest.raises(GenrecError, match=said):
            decoder.ready()
        decoder.close()


def test_a_model_that_was_replaced_opens_no_process_any_more(
    tiny_model: "TinyModel", monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> bool:
        model = ServedModel(tiny_model.model_dir, threads=1)
        (decoder,) = model.decoders
        monkeypatch.setattr(decoder, "_start", lambda: WaitingDecoder._start(decoder))
        model.acquire()
        try:
            replacing = asyncio.create_task(decoder.replace())
            await asyncio.sleep(0.3)
            await asyncio.to_thread(model.retire)
            return await asyncio.wait_for(replacing, timeout=10)
        finally:
            model.release()

    assert not asyncio.run(run())
