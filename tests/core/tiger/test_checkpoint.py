"""A checkpoint is loaded whole or not at all: a model with random weights in it must never rank anything."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from genrec_core.errors import GenrecError
from genrec_core.sasrec.model import SasRecConfig, SasRecModel
from genrec_core.tiger.model import TigerConfig, TigerModel

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def renamed(weights: dict[str, Tensor]) -> None:
    weights["context_old.weight"] = weights.pop("context.weight")


def reshaped(weights: dict[str, Tensor]) -> None:
    weights["context.weight"] = torch.zeros(3, 3)


def shortened(weights: dict[str, Tensor]) -> None:
    for name in [name for name in weights if name.startswith("encoder.")]:
        del weights[name]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    sizes = {"d_model": 8, "heads": 2, "d_ff": 8, "encoder_layers": 1, "decoder_layers": 1}
    TigerModel(TigerConfig(level_sizes=(4, 4, 2), **sizes)).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (renamed, r"missing: context\.weight; unknown: context_old\.weight"),
        (reshaped, r"of another shape: context\.weight \(3, 3\) in place of \(8, 8\)"),
        (shortened, r"missing: encoder\.bias\.table, .* \[\.\.\.\]"),
    ],
)
def test_weights_that_do_not_match_are_named(
    checkpoint: Path, change: Callable[[dict[str, Tensor]], None], said: str
) -> None:
    weights = load_file(checkpoint / WEIGHTS)
    change(weights)
    save_file(weights, checkpoint / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(GenrecError, match=said):
        TigerModel.from_pretrained(checkpoint)


def test_a_damaged_or_missing_file_is_named(checkpoint: Path) -> None:
    (checkpoint / WEIGHTS).write_bytes(b"cut off")
    with pytest.raises(GenrecError, match=f"{checkpoint}.*cannot be read as a checkpoint"):
        TigerModel.from_pretrained(checkpoint)
    (checkpoint / WEIGHTS).unlink()
    with pytest.raises(GenrecError, match=f"{checkpoint}.*cannot be read as a checkpoint"):
        TigerModel.from_pretrained(checkpoint)


def test_a_whole_checkpoint_comes_back_as_it_was(checkpoint: Path, tmp_path: Path) -> None:
    before = load_file(checkpoint / WEIGHTS)
    after = TigerModel.from_pretrained(checkpoint).state_dict()
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_it_holds_for_sasrec_too(tmp_path: Path) -> None:
    SasRecModel(SasRecConfig(n_items=5, d_model=8, heads=2, layers=1, d_ff=8)).save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    name = sorted(weights)[0]
    weights["other"] = weights.pop(name)
    save_file(weights, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(GenrecError, match=rf"missing: {name}; unknown: other"):
        SasRecModel.from_pretrained(tmp_path)


def test_weights_that_torch_would_unpickle_are_not_read(checkpoint: Path) -> None:
    torch.save(load_file(checkpoint / WEIGHTS), checkpoint / "pytorch_model.bin")
    (checkpoint / WEIGHTS).unlink()
    with pytest.raises(GenrecError, match=r"no file named model\.safetensors"):
        TigerModel.from_pretrained(checkpoint)


def configure(checkpoint: Path, **changes: object) -> None:
    config = json.loads((checkpoint / CONFIG).read_text())
    (checkpoint / CONFIG).write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(("name", "value"), [("parallel_levels", True), ("code_dropout", 0.1)])
def test_a_checkpoint_with_an_option_that_was_taken_out_is_refused_by_its_name(
    checkpoint: Path, name: str, value: object
) -> None:
    configure(checkpoint, **{name: value})
    said = f"^{checkpoint}: {name} is {value}, but that option was taken out; train it again with this version$"
    with pytest.raises(GenrecError, match=said):
        TigerModel.from_pretrained(checkpoint)


def test_a_checkpoint_of_an_earlier_version_that_had_those_options_off_is_read(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before, again = (checkpoint / CONFIG).read_text(), tmp_path_factory.mktemp("again")
    configure(checkpoint, parallel_levels=False, code_dropout=0.0)
    TigerModel.from_pretrained(checkpoint).save_pretrained(again)
    assert json.loads((again / CONFIG).read_text()) == json.loads(before)
