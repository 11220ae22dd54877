"""Training of SASRec by TIGER's own loop: the same split, batches, optimiser, resumption and validation."""

import math

from torch import Tensor, nn
from transformers import PreTrainedModel

from genrec_core.sasrec.model import SasRecConfig, SasRecLoss, SasRecModel, SasRecScorer
from genrec_core.search.beams import CodeScorer
from genrec_core.tiger.training import Trainer, TrainingData


class SasRecTrainer(Trainer):
    """Trains SASRec. Settings of codes, decoder and dense head have no effect."""

    model: SasRecModel
    model_class = SasRecModel

    def _build_model(self, data: TrainingData) -> SasRecModel:
        shared = self.settings.model_dump(include={"d_model", "heads", "d_ff", "dropout", "max_history"})
        return SasRecModel(SasRecConfig(n_items=len(data.codes), layers=self.settings.encoder_layers, **shared))

    def _build_objective(self, data: TrainingData) -> nn.Module:
        return SasRecLoss(self.model, self.settings.label_smoothing)

    def _loss(self, history: Tensor, target: Tensor, following: Tensor) -> Tensor:
        loss: Tensor = self.objective(history, target)
        return loss

    def _uniform_loss(self) -> float:
        return math.log(len(self.codes))

    def _scorer(self, model: PreTrainedModel) -> CodeScorer:
        assert isinstance(model, SasRecModel)
        return SasRecScorer(model)

    def _validate(self) -> dict[str, float]:
        return {"validation_recall@10": self._validation_recall(self.model, 1.0)}

    def _conclude(self) -> dict[str, float]:
        return {}
