"""The storage switch and the pointer to the newest version."""

import json
from pathlib import Path

import pytest

from genrec_core.errors import GenrecError
from genrec_core.storage import folders as storage
from genrec_core.storage.artifacts import verify_manifest
from genrec_core.storage.folders import all_assets, latest, set_latest, storage_root


def test_the_default_root_lies_in_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GENREC_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert storage_root() == tmp_path / ".genrec" / "storage"


def test_the_variable_moves_the_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GENREC_STORAGE", str(tmp_path / "elsewhere"))
    assert storage_root() == tmp_path / "elsewhere"


def test_a_url_is_refused_rather_than_taken_for_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_STORAGE", "gs://bucket/prefix")
    with pytest.raises(GenrecError, match=r"gs://bucket/prefix.*folder"):
        storage_root()


def test_latest_follows_the_pointer(tmp_path: Path) -> None:
    for version in ("run-1", "run-2"):
        (tmp_path / "onnx_encoder" / version).mkdir(parents=True)
        set_latest("onnx_encoder", version, tmp_path)
        assert latest("onnx_encoder", tmp_path) == tmp_path / "onnx_encoder" / version


def test_an_asset_never_built_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(GenrecError, match=r"onnx_encoder was never built.*make run"):
        latest("onnx_encoder", tmp_path)


def test_a_pointer_to_a_missing_version_is_named(tmp_path: Path) -> None:
    set_latest("onnx_encoder", "gone", tmp_path)
    with pytest.raises(GenrecError, match="names gone"):
        latest("onnx_encoder", tmp_path)


@pytest.mark.parametrize("version", ["", ".", "..", "../other", "/etc"])
def test_a_version_cannot_leave_its_asset(tmp_path: Path, version: str) -> None:
    (tmp_path / "asset").mkdir()
    (tmp_path / "asset" / "latest.json").write_text(json.dumps({"version": version}))
    with pytest.raises(GenrecError, match="not the name of a folder"):
        latest("asset", tmp_path)
    with pytest.raises(GenrecError, match="not the name of a folder"):
        set_latest("asset", version, tmp_path)


@pytest.mark.parametrize("content", ["[]", '{"version": 3}', "{}"])
def test_a_damaged_pointer_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "asset").mkdir()
    (tmp_path / "asset" / "latest.json").write_text(content)
    with pytest.raises(GenrecError, match=r"latest\.json"):
        latest("asset", tmp_path)


class Hostile:
    """A bucket whose names climb out of the folder that mirrors it."""

    def listing(self, below: str = "") -> dict[str, None]:
        return dict.fromkeys([f"{name}/latest.json" for name in ("good", "good/part", "..", "x/..", "./x", "x/", "/y")])


def test_names_of_a_bucket_that_are_no_names_of_folders_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_store_of", lambda root: Hostile())
    assert all_assets(tmp_path) == ["good", "good/part"]


@pytest.mark.parametrize("name", ["../other/secret", "/etc/hostname", "a/../../x"])
def test_a_manifest_that_names_files_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "version").mkdir()
    (tmp_path / "version" / "manifest.json").write_text(json.dumps({"files": {name: {"bytes": 1, "sha256": "0"}}}))
    with pytest.raises(GenrecError, match=r"manifest\.json names .* outside the folder"):
        verify_manifest(tmp_path / "version")
