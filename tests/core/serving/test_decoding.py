"""The processes that decode: what one has read once the model is open, and where they run."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from genrec_core.artifacts import write_manifest
from genrec_core.inference.item_attributes import ITEMS, ItemTable
from genrec_core.serving.decoders import Decoder
from genrec_core.serving.decoding import open_warm
from genrec_core.serving.models import ServedModel

if TYPE_CHECKING:
    from conftest import TinyModel


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
    cores = os.sched_getaffinity(0)
    more = len(cores) + 1
    for threads, wanted in ((len(cores), [{core} for core in sorted(cores)]), (more, [cores] * more)):
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
