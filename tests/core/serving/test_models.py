"""The model that serves follows its folder where a new decoding process has read that."""

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.errors import GenrecError
from genrec_core.serving.metrics import Metrics
from genrec_core.serving.models import ModelHolder, ServedModel

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel


@pytest.fixture
def holder(tiny_model: "TinyModel", tmp_path: Path) -> Iterator[ModelHolder]:
    holder = ModelHolder(Path(shutil.copytree(tiny_model.model_dir, tmp_path / "model")), 1, Metrics())
    holder.load()
    yield holder
    holder.close()


def served(holder: ModelHolder) -> ServedModel:
    assert holder.current
    return holder.current


def test_a_folder_that_changed_is_loaded_and_another_is_not(
    holder: ModelHolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = served(holder)
    holder.follow(first)
    assert served(holder) is first
    assert not caplog.records
    ModelFolder(tmp_path / "model").withdraw(np.load(tmp_path / "model" / "item_ids.npy")[:1])
    holder.follow(first)
    second = served(holder)
    assert second.version == ModelFolder(tmp_path / "model").version != first.version
    assert f"holds version {second.version}" in caplog.text
    ModelFolder(tmp_path / "model").withdraw(np.load(tmp_path / "model" / "item_ids.npy")[1:2])
    holder.follow(first)  # what was replaced has nothing to follow
    assert served(holder) is second


def test_a_folder_that_cannot_be_loaded_is_told_with_the_remedy(
    holder: ModelHolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = served(holder)
    shutil.rmtree(tmp_path / "model")
    holder.follow(model)
    assert served(holder) is model
    assert "POST /admin/reload" in caplog.text


def test_a_server_that_stops_does_not_wait_for_items_that_are_being_added(tiny_model: "TinyModel") -> None:
    holder = ModelHolder(tiny_model.model_dir, 1, Metrics())
    with ThreadPoolExecutor() as pool:
        added = pool.submit(holder.add, [{"item_id": 1, "title": "Soap"}])
        while not holder._adding:
            time.sleep(0.01)
        holder.close()
        with pytest.raises(GenrecError, match=r"genrec add-items ended with (-15|143)"):
            added.result(timeout=20)
