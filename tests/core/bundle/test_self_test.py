"""A model is refused where it does not compute the answers that were stored at its export."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.errors import GenrecError
from genrec_core.export import quantize
from genrec_core.export.quantize import ValidationUsers, quantize_recommender
from genrec_core.graphs import SELF_TEST, require_same_answers
from genrec_core.recommend.recommender import Recommender
from genrec_core.storage.artifacts import write_manifest

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel

# Prints the lists of a few users, as bytes in hex, or the error of the opening.
RANK = """
import sys
from pathlib import Path
import numpy as np
from genrec_core.errors import GenrecError
from genrec_core.recommend.recommender import Recommender
try:
    recommender = Recommender.open(Path(sys.argv[1]))
except GenrecError as error:
    sys.exit(str(error))
ids = recommender.item_ids.tolist()
histories = [ids[first : first + 6] for first in range(0, 60, 3)]
for ranking in ("generative", "dense", "hybrid"):
    print(np.concatenate(recommender.recommend(histories, 10, ranking=ranking)).tolist())
"""
EMULATOR = shutil.which("qemu-x86_64")
# Has AVX2, but neither AVX-512 nor VNNI: adds two products of uint8 and int8 in 16 bits, which saturate.
HASWELL = [str(EMULATOR), "-cpu", "Haswell"]
SATURATES = "vnni" not in Path("/proc/cpuinfo").read_text(encoding="utf-8")
WIDE = {"reduce_range": False}


@pytest.fixture(scope="module")
def validation_users(tiny_recommender: Recommender) -> ValidationUsers:
    ids = tiny_recommender.item_ids
    histories = [np.random.default_rng(user).choice(ids, 8).tolist() for user in range(40)]
    return ValidationUsers(histories, [int(items[0]) for items in tiny_recommender.recommend(histories, 1)])


def copy_of(model_dir: Path, target: Path) -> Path:
    shutil.copytree(model_dir, target)
    return target


def changed_answers(folder: Path, change: float) -> None:
    with np.load(folder / SELF_TEST) as stored:
        content = dict(stored)
    content["answers"][3] += change * np.ptp(content["answers"])
    np.savez(folder / SELF_TEST, **content)
    write_manifest(folder)


def test_a_model_that_computes_other_answers_is_refused(tiny_model: "TinyModel", tmp_path: Path) -> None:
    folder = copy_of(tiny_model.model_dir, tmp_path / "model")
    changed_answers(folder, 0.2)
    with pytest.raises(GenrecError, match=r"does not compute the answers .* 20\.\d% of their range.* without int8"):
        Recommender.open(folder)


def test_rounding_in_the_last_places_is_no_fault(tiny_model: "TinyModel", tmp_path: Path) -> None:
    folder = copy_of(tiny_model.model_dir, tmp_path / "model")
    changed_answers(folder, 0.001)
    Recommender.open(folder)


def test_an_answer_that_is_no_number_is_refused() -> None:
    with pytest.raises(GenrecError, match="does not compute the answers"):
        require_same_answers(Path("model"), np.array([0.0, 1.0]), np.array([0.0, np.nan]))


def test_a_model_without_stored_answers_is_refused(tiny_model: "TinyModel", tmp_path: Path) -> None:
    folder = copy_of(tiny_model.model_dir, tmp_path / "model")
    (folder / SELF_TEST).unlink()
    write_manifest(folder)
    with pytest.raises(GenrecError, match=r"self_test\.npz: cannot be read .* export the model again"):
        Recommender.open(folder)


def test_withdrawn_items_change_no_answer(tiny_model: "TinyModel", tmp_path: Path) -> None:
    folder = copy_of(tiny_model.model_dir, tmp_path / "model")
    ModelFolder(folder).withdraw(Recommender.open(folder).item_ids[:40])
    Recommender.open(folder)


def ranked(folder: Path, *emulator: str) -> "subprocess.CompletedProcess[str]":
    """What a process of its own makes of the model, on this processor or an emulated one."""
    command = [*emulator, sys.executable, "-c", RANK, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(EMULATOR is None, reason="needs qemu-x86_64: apt-get install qemu-user")
def test_in_int8_every_processor_gives_the_same_lists(
    tiny_model: "TinyModel", validation_users: ValidationUsers, tmp_path: Path
) -> None:
    quantize_recommender(tiny_model.model_dir, tmp_path / "int8", validation_users, largest_loss=0.2)
    here, haswell = ranked(tmp_path / "int8"), ranked(tmp_path / "int8", *HASWELL)
    assert here.returncode == 0, here.stderr
    assert haswell.stdout == here.stdout


@pytest.mark.slow
@pytest.mark.skipif(EMULATOR is None, reason="needs qemu-x86_64: apt-get install qemu-user")
@pytest.mark.skipif(SATURATES, reason="the products of 8 bits that it stores saturate on this processor itself")
def test_weights_of_8_bits_are_refused_where_their_products_saturate(
    tiny_model: "TinyModel", validation_users: ValidationUsers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    static = quantize.quantize_static
    monkeypatch.setattr(quantize, "quantize_static", lambda *paths, **given: static(*paths, **given | WIDE))
    quantize_recommender(tiny_model.model_dir, tmp_path / "int8", validation_users, largest_loss=0.2)
    assert ranked(tmp_path / "int8", *HASWELL).stderr.count("does not compute the answers") == 1
