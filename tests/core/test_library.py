"""``import genrec_core`` is enough for a notebook: its names, and how a model is opened."""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import genrec_core
from genrec_core import GenrecError, Recommender
from genrec_core.releases.pointer import MODEL, RELEASES, first_pointer, serve, write_release
from genrec_core.storage.artifacts import write_manifest
from genrec_core.storage.folders import set_latest

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel

HEAVY = ("numpy", "onnxruntime", "polars", "pandas", "torch", "pydantic")


def test_importing_the_library_imports_nothing_heavy() -> None:
    code = f"import sys, genrec_core; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_opening_a_model_needs_neither_torch_nor_a_library_of_frames(tiny_model: "TinyModel") -> None:
    code = (
        "import sys, genrec_core; genrec_core.Recommender.open(sys.argv[1]).recommend([[1]], 5); "
        "print([name for name in ('torch', 'polars', 'pandas') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tiny_model.model_dir)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_exported_name_is_there_and_is_listed() -> None:
    for name in genrec_core.__all__:
        assert getattr(genrec_core, name).__name__ == name
    assert set(genrec_core.__all__) <= set(dir(genrec_core))
    with pytest.raises(AttributeError, match="no attribute 'Recomender'"):
        genrec_core.Recomender  # noqa: B018 - reading it is the test


def test_a_model_opens_by_its_folder_its_asset_or_as_the_served_release(
    tiny_model: "TinyModel", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"checkpoint": tiny_model.checkpoint, MODEL: tiny_model.model_dir}
    write_release(tmp_path / RELEASES / "v1", parts, {})
    write_manifest(tmp_path / RELEASES / "v1")
    set_latest(RELEASES, "v1", tmp_path)
    serve(first_pointer("v1", "a test"), tmp_path)
    monkeypatch.setenv("GENREC_STORAGE", str(tmp_path))
    history = Recommender.open(tiny_model.model_dir).item_ids[:3].tolist()
    wanted = Recommender.open(tiny_model.model_dir).recommend([history], 10)[0].tolist()
    for place in (None, str(tiny_model.model_dir), tmp_path / RELEASES, tmp_path / RELEASES / "v1"):
        assert Recommender.open(place).recommend([history], 10)[0].tolist() == wanted


def test_a_model_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GenrecError, match=r"nowhere: no manifest\.json"):
        Recommender.open(tmp_path / "nowhere")
    monkeypatch.setenv("GENREC_STORAGE", str(tmp_path))
    with pytest.raises(GenrecError, match="no release is served yet"):
        Recommender.open()
