"""Trains a measured model's recipe again on all interactions, also the held-out ones. No figure measures the result."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from genrec_core.data.split import everything
from genrec_core.errors import GenrecError
from genrec_core.settings import TrainingSettings
from genrec_core.storage.artifacts import read_json, sha256_of
from genrec_core.tiger.distributed import World
from genrec_core.tiger.model import TigerConfig, TigerModel
from genrec_core.tiger.training import OnEvent, Trainer, TrainingData

_CONFIG, _HISTORY = "config.json", "training_history.json"
# What the measured model's validation chose.
_CHOSEN = ("identity_share", "neighbor_weight", "follower_weight", "hybrid_weight", "ranking", "exclude_seen")


@dataclass(frozen=True)
class RefitData(TrainingData):
    """What a training reads, of which nothing is held out, and the checkpoint whose recipe it follows."""

    measured: Path

    @classmethod
    def of(cls, data: TrainingData, measured: Path) -> "RefitData":
        """Hold nothing of ``data`` out."""
        return cls(everything(data.histories), data.codes, data.level_sizes, data.vectors, measured)

    def identity(self, settings: TrainingSettings) -> str:
        """As of any training; also by what the measured model's validation chose."""
        best_epoch = _history(self.measured)["best_epoch"]
        return f"{super().identity(settings)}-{best_epoch:.0f}-{sha256_of(self.measured / _CONFIG)[:16]}"


def refit_settings(measured: Path) -> TrainingSettings:
    """The settings of a checkpoint; numbers that followed from its data are fixed at what they were."""
    history = _history(measured)
    return TrainingSettings.model_validate({**history["settings"], **history["plan"]})


def _history(measured: Path) -> Mapping[str, Any]:
    history: Mapping[str, Any] = read_json(measured / _HISTORY)
    if "plan" not in history:
        raise GenrecError(f"{measured}: an earlier version of genrec trained it; train it again to refit it")
    return history


class RefitTrainer(Trainer):
    """Trains as many epochs as the measured model's best one, with its learning rates and chosen weights."""

    def __init__(
        self, data: TrainingData, settings: TrainingSettings, folder: Path, world: World, on_event: OnEvent
    ) -> None:
        super().__init__(data, settings, folder, world, on_event)
        assert isinstance(data, RefitData)
        self.chosen = TigerConfig.from_pretrained(data.measured)
        self.last_epoch = int(_history(data.measured)["best_epoch"])

    @property
    def _best(self) -> dict[str, float]:
        return self.progress.history[-1] if self.progress.epoch == self.last_epoch else {}

    def _validate(self) -> dict[str, float]:
        return {}  # nobody is held out

    def _conclude(self) -> dict[str, float]:
        """Give the model the weights that the measured model's validation chose."""
        best = TigerModel.from_pretrained(self.folder / "best")
        nn.Module.to(best, self.world.device)
        for name in _CHOSEN:
            setattr(best.config, name, getattr(self.chosen, name))
        self.neighbors = self._neighbors(best.config.neighbor_weight, best.config.follower_weight)
        self._save_best(best)
        return {}
