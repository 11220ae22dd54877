"""Training of SASRec by TIGER's own loop: the same split, batches, optimiser, resumption and validation."""

import math

from torch import Tensor, nn
from transformers import PreTrainedModel

from genrec_core.sasrec.model import SasRecConfig, SasRecLoss, SasRecModel, SasRecScorer
from genrec_core.search.beams import CodeScorer
from genrec_core.tiger.training import Trainer, TrainingData


class SasRecTrainer(Trainer):
    """One training of the baseline in one process; settings of codes, decoder and dense head mean nothing here."""

    model: SasRecModel
    model_class = SasRecModel

    def _build_model(self, data: TrainingData) -> SasRecModel:
        settings = self.settings
        sizes = {"d_model": settings.d_model, "heads": settings.heads, "d_ff": settings.d_ff}
        return SasRecModel(
            SasRecConfig(
                n_items=len(data.codes),
                layers=settings.encoder_layers,
                dropout=settings.dropout,
                max_history=settings.max_history,
                **sizes,
            )
        )

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
