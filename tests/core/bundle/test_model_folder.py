"""Withdrawn items: never recommended, restored at will, in a list that is whole, checked and safe between processes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from genrec_core.bundle.model_folder import ITEM_IDS, WITHDRAWN, ModelFolder, Withdrawal
from genrec_core.cli.main import main
from genrec_core.errors import GenrecError
from genrec_core.recommend.recommender import Recommender
from genrec_core.storage.artifacts import verify_manifest

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel


@pytest.fixture
def model_dir(tiny_model: "TinyModel", tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model.model_dir, tmp_path / "model")


def test_withdrawn_items_are_recommended_to_nobody_until_restored(model_dir: Path) -> None:
    before = Recommender.open(model_dir)
    ids = before.item_ids
    histories = [ids[[3, 50]].tolist(), []]
    gone = before.rank(histories, 3).items.ravel()
    assert ModelFolder(model_dir).withdraw(gone) == Withdrawal(len(set(gone)), len(set(gone)), 90 - len(set(gone)))
    after = Recommender.open(model_dir)
    every = np.ones(90, dtype=bool)
    for allowed in (None, every, after.allowed(deny=[int(ids[9])]), [None, every]):
        for items in (found := after.rank(histories, 90, allowed=allowed)).items:
            assert not set(items[: found.counts[0]].tolist()) & set(gone.tolist())
    with pytest.raises(GenrecError, match="leave no item"):
        after.allowed(allow=gone.tolist())
    assert ModelFolder(model_dir).withdraw(gone, restore=True).withdrawn == 0
    np.testing.assert_array_equal(
        Recommender.open(model_dir).rank(histories, 90).items, before.rank(histories, 90).items
    )


def test_a_withdrawn_item_still_tells_of_the_users_taste(model_dir: Path, tiny_recommender: Recommender) -> None:
    history = [tiny_recommender.item_ids[[3, 50, 7]].tolist()]
    ModelFolder(model_dir).withdraw(tiny_recommender.item_ids[[3]])
    found = Recommender.open(model_dir).rank(history, 20)
    assert found.unknown.tolist() == [0]
    np.testing.assert_array_equal(found.items, tiny_recommender.rank(history, 20).items)


def test_the_list_leaves_the_released_model_as_it_is(model_dir: Path, tiny_recommender: Recommender) -> None:
    manifest = (model_dir / "manifest.json").read_bytes()
    ModelFolder(model_dir).withdraw(tiny_recommender.item_ids[:4])
    ModelFolder(model_dir).withdraw(tiny_recommender.item_ids[2:6])
    verify_manifest(model_dir)
    assert (model_dir / "manifest.json").read_bytes() == manifest
    assert ModelFolder(model_dir).withdrawn() == tiny_recommender.item_ids[:6].tolist()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"item_ids": [1]}', "differs from its own sha256"),
        ('{"item_ids": "1"}', "no list of item ids"),
        ("[", "not valid JSON"),
    ],
)
def test_a_damaged_list_is_never_passed_over(model_dir: Path, content: str, said: str) -> None:
    (model_dir / WITHDRAWN).write_text(content)
    with pytest.raises(GenrecError, match=said):
        Recommender.open(model_dir)


def test_a_list_of_another_model_is_refused(model_dir: Path, tiny_recommender: Recommender) -> None:
    ModelFolder(model_dir).withdraw(tiny_recommender.item_ids[:1])
    np.save(model_dir / ITEM_IDS, tiny_recommender.item_ids[1:])
    with pytest.raises(GenrecError, match="the model has no item"):
        ModelFolder(model_dir).withdrawn()


def test_what_cannot_be_withdrawn_changes_nothing(model_dir: Path, tiny_recommender: Recommender) -> None:
    for items, said in (
        (np.array([5, 10**6]), "the model does not have 2 of the items"),
        (tiny_recommender.item_ids, "no item"),
    ):
        with pytest.raises(GenrecError, match=said):
            ModelFolder(model_dir).withdraw(items)
    assert not (model_dir / WITHDRAWN).exists()
    with pytest.raises(GenrecError, match="no such folder"):
        ModelFolder(model_dir / "nowhere" / "model").withdraw(tiny_recommender.item_ids[:1])


def test_commands_at_once_lose_nothing(model_dir: Path, tiny_recommender: Recommender, tmp_path: Path) -> None:
    ids = tiny_recommender.item_ids[:12].tolist()
    code = (
        "import sys, numpy as np; from pathlib import Path; from genrec_core.bundle.model_folder import ModelFolder\n"
        "for item in sys.argv[2:]: ModelFolder(Path(sys.argv[1])).withdraw(np.array([int(item)]))"
    )
    command = [sys.executable, "-c", code, str(model_dir)]
    running = [subprocess.Popen([*command, *map(str, ids[part::3])]) for part in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert json.loads((model_dir / WITHDRAWN).read_text())["item_ids"] == ids


def test_the_command_says_what_it_did(
    model_dir: Path, tiny_recommender: Recommender, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "items").write_text("\n".join(map(str, tiny_recommender.item_ids[:3])))
    arguments = ["withdraw", "--model_dir", str(model_dir), "--items", str(tmp_path / "items")]
    assert main(arguments) == 0
    assert "3 items withdrawn; 3 are withdrawn now, 87 can be recommended" in capsys.readouterr().err
    assert main([*arguments, "--restore"]) == 0
    assert "3 items restored; 0 are withdrawn now, 90 can be recommended" in capsys.readouterr().err
