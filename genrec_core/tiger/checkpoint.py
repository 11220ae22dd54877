"""What a training leaves on disk, without pickle: its model, and the state from which a killed training goes on."""

from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from pathlib import Path
from statistics import fmean
from textwrap import shorten
from typing import Any, Self, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import atomic_folder, read_json, recovered, write_json

_MODEL, _OPTIMIZER, _PROGRESS = "model.safetensors", "optimizer.safetensors", "progress.json"
_RANKINGS = ("validation_recall@10", "validation_generative_recall@10")
_NEARLY = 0.98  # of the highest recall
_SHOWN = 200  # characters of the names that an error lists


class WholeModel(PreTrainedModel):
    """Base of the models that training saves; transformers alone fills missing weights at random."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike[str] | None, *arguments: Any, **options: Any
    ) -> Self:
        """Load the folder that ``save_pretrained`` wrote, whole or not at all; an error names what does not fit."""
        folder = pretrained_model_name_or_path
        if folder is not None:
            recovered(Path(folder))
        options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # so that all are named below
        options |= {"use_safetensors": True}  # the other form is a pickle
        try:
            loaded: Any = super().from_pretrained(folder, *arguments, **options)
        except (OSError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise GenrecError(f"{folder}: cannot be read as a checkpoint ({reason}); train the model again") from error
        except GenrecError as error:
            raise GenrecError(f"{folder}: {error}") from error
        model, report = loaded
        shapes = [f"{name} {tuple(saved)} in place of {tuple(own)}" for name, saved, own in report["mismatched_keys"]]
        faults = {"missing": report["missing_keys"], "unknown": report["unexpected_keys"], "of another shape": shapes}
        if any(faults.values()):
            lists = {fault: shorten(", ".join(sorted(names)), _SHOWN) for fault, names in faults.items() if names}
            named = "; ".join(f"{fault}: {names}" for fault, names in lists.items())
            raise GenrecError(
                f"{folder}: its weights are not those of this version's {cls.__name__} ({named}); "
                "train the model again, or load it with the version that trained it"
            )
        return cast(Self, model)


@dataclass
class Progress:
    """Where a training stands.

    ``history`` has one entry an epoch; after a validation, with the Recall@10 of each ranking. It holds no clock time,
    so that an interrupted training and an unbroken one have the same history.
    """

    epoch: int = 0  # finished ones, like the steps
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0  # spent training, over all attempts

    @property
    def best(self) -> dict[str, float]:
        """The newest epoch whose mean Recall@10 over the rankings is nearly the highest; empty before a validation.

        The mean, because the dense ranking is at its best some epochs before the generative one. Some thousand users do
        not tell epochs apart whose recall is nearly the same. Of these the newest is taken, because the learning rate
        has fallen furthest.
        """
        least = _NEARLY * max(map(_mean_recall, self._validations), default=0.0)
        return next((of for of in reversed(self._validations) if _mean_recall(of) >= least), {})

    @property
    def stale(self) -> int:
        """Validations since the first one with the highest mean."""
        highest = max(self._validations, key=_mean_recall, default={})
        return sum(entry["epoch"] > highest["epoch"] for entry in self._validations)

    @property
    def _validations(self) -> list[dict[str, float]]:
        return [entry for entry in self.history if _RANKINGS[0] in entry]


def _mean_recall(entry: dict[str, float]) -> float:
    return fmean(entry[name] for name in _RANKINGS if name in entry)


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
    """Fill model and optimiser from ``folder``; a fresh :class:`Progress` if there is no such folder."""
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


def claim_folder(folder: Path, identity: str) -> None:
    """Write into ``folder`` which training it holds; refuse one that holds another training."""
    path = folder / "identity.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, {"identity": identity})
    elif read_json(path)["identity"] != identity:
        raise GenrecError(f"{folder} holds a training of other settings or data; name another folder or delete it")
