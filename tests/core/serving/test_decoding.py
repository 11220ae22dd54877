"""The processes that decode: what one has read once the model is open, and where they run."""

import asyncio
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from genrec_core.artifacts import write_manifest
from genrec_core.inference.item_attributes import ITEMS, ItemTable
from genrec_core.serving.decoders import CORES, Decoder
from genrec_core.serving.decoding import open_warm
from genrec_core.serving.models import ServedModel

if TYPE_CHECKING:
    from conftest import TinyModel


class IdleDecoder(Decoder):
    """Starts no process."""

    def _start(self) -> None:
        """There is nothing to start."""


def test_a_warm_model_takes_rules_though_its_folder_is_gone(tiny_model: "TinyModel", tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model.model_dir, tmp_path / "model")
    ids = np.load(folder / "item_ids.npy").tolist()
    nothing, brands = [None] * len(ids), ["Even", "Odd"] * (len(ids) // 2)
    ItemTable(item_id=ids, title=nothing, brand=brands, categories=nothing, price=nothing).save(folder)
    write_manifest(folder)
    recommender = open_warm(folder)
    (folder / ITEMS).unlink()
    allowed = recommender.allowed(rule="brand = odd")
    assert allowed is not None
    assert allowed.sum() == 45


def test_each_process_has_a_core_of_its_own_where_there_are_as_many(tiny_model: "TinyModel") -> None:
    more = len(CORES) + 1
    for threads, wanted in ((len(CORES), [{core} for core in sorted(CORES)]), (more, [CORES] * more)):
        model = ServedModel(tiny_model.model_dir, threads)
        try:
            assert [os.sched_getaffinity(decoder.process.pid) for decoder in model.decoders] == wanted
        finally:
            model.retire()


def test_a_core_that_is_not_to_be_had_does_no_harm(tiny_model: "TinyModel") -> None:
    decoder = Decoder(tiny_model.model_dir, core=1023)
    try:
        assert decoder.ready()["items"] == 90
        assert os.sched_getaffinity(decoder.process.pid) == os.sched_getaffinity(0)
    finally:
        decoder.close()


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_the_event_loop_stays_on_the_cores_that_decode_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    free = asyncio.Event()

    async def answer(*_: object) -> str:
        seen.append(os.sched_getaffinity(0))
        await free.wait()
        return '{"counts":[],"unknown":[],"popular":[],"warnings":[]}'

    async def run() -> None:
        first, *others = (IdleDecoder(Path(), core) for core in sorted(CORES))
        batches = [asyncio.create_task(first.decode("{}", []))]
        await asyncio.sleep(0)
        assert seen == [CORES - {first.core}]
        batches += [asyncio.create_task(decoder.decode("{}", [])) for decoder in others]
        await asyncio.sleep(0)
        assert seen[-1] == CORES  # all are busy
        free.set()
        await asyncio.gather(*batches)

    monkeypatch.setattr(Decoder, "_answer", answer)
    asyncio.run(run())
    assert os.sched_getaffinity(0) == CORES
