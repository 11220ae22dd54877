"""The state of an unfinished training, on disk without pickle: a killed training goes on after its last epoch."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import atomic_folder, read_json, recovered, write_json

_MODEL, _OPTIMIZER, _PROGRESS = "model.safetensors", "optimizer.safetensors", "progress.json"
_RANKINGS = ("validation_recall@10", "validation_generative_recall@10")


@dataclass
class Progress:
    """Where a training stands.

    Args:
        epoch: finished epochs.
        step: finished optimiser steps.
        history: one entry an epoch; after a validation, with the Recall@10 of each ranking. It holds no clock time, so
            that an interrupted training and an unbroken one have the same history.
        seconds: time spent training, over all attempts.
    """

    epoch: int = 0
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def best(self) -> dict[str, float]:
        """The first epoch with the highest mean Recall@10 over the rankings; empty before the first validation.

        The mean, because the dense ranking is at its best some epochs before the generative one.
        """
        return max(self._validations, key=_mean_recall, default={})

    @property
    def stale(self) -> int:
        """Validations since the best one."""
        return sum(entry["epoch"] > self.best["epoch"] for entry in self._validations)

    @property
    def _validations(self) -> list[dict[str, float]]:
        return [entry for entry in self.history if _RANKINGS[0] in entry]


def _mean_recall(validation: dict[str, float]) -> float:
    recalls = [validation[ranking] for ranking in _RANKINGS if ranking in validation]
    return sum(recalls) / len(recalls)


def save_state(folder: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Replace the state in ``folder``; a process that dies half-way leaves the old one."""
    with atomic_folder(folder) as part:
        save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, part / _MODEL)
        moments = {
            f"{number}.{name}": tensor.contiguous()
            for number, tensors in optimizer.state_dict()["state"].items()
            for name, tensor in tensors.items()
        }
        save_file(moments, part / _OPTIMIZER)
        write_json(part / _PROGRESS, asdict(progress))


def load_state(folder: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> Progress:
    """Fill model and optimiser from ``folder``; a fresh :class:`Progress` if there is no such folder.

    Raises:
        GenrecError: a file of the state is missing, damaged or of another model, or cannot be read now.
        torch.OutOfMemoryError: the device has no room for the state.
    """
    if not recovered(folder).is_dir():
        return Progress()
    try:
        return _read_state(folder, model, optimizer)
    except (torch.OutOfMemoryError, torch.AcceleratorError):  # the state may be whole
        raise
    except (GenrecError, FileNotFoundError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise GenrecError(
            f"{folder}: this training state cannot be read ({reason:.200}); delete the folder to train from epoch 0"
        ) from error
    except OSError as error:
        raise GenrecError(
            f"{folder}: this training state cannot be read now ({error}); try again once the folder can be read"
        ) from error


def _read_state(folder: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> Progress:
    model.load_state_dict(load_file(folder / _MODEL, device=str(model.device)))
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in load_file(folder / _OPTIMIZER, device=str(model.device)).items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = tensor.cpu() if name == "step" else tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    saved = read_json(folder / _PROGRESS)
    return Progress(**{entry.name: saved[entry.name] for entry in fields(Progress)})


def reason_to_begin_again(folder: Path) -> str:
    """Why a training in ``folder`` begins at epoch 0 although an earlier attempt left its best model; else empty."""
    if recovered(folder / "best").is_dir():
        return f"from epoch 0, although {folder / 'best'} is there: {folder / 'state'} is missing"
    return ""


def claim_folder(folder: Path, identity: str) -> None:
    """Write into ``folder`` which training it holds.

    Raises:
        GenrecError: it already holds the training of other settings or data.
    """
    path = folder / "identity.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, {"identity": identity})
    elif (other := read_json(path)["identity"]) != identity:
        raise GenrecError(
            f"{folder} holds a training of other settings or data (identity {other}, wanted {identity}); "
            "name another folder or delete this one"
        )
