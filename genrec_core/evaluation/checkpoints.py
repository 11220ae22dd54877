"""Opens a trained model of any kind for evaluation."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrec_core.errors import GenrecError
from genrec_core.sasrec.model import SasRecModel, SasRecScorer
from genrec_core.search.beams import CodeScorer
from genrec_core.search.generative import RankingWeights
from genrec_core.storage.artifacts import read_json
from genrec_core.tiger.scorer import TorchScorer, ranking_weights


@dataclass(frozen=True)
class TrainedModel:
    """A model with the newest items of a history that it reads, and the weights of its ranking modes."""

    scorer: CodeScorer
    max_history: int
    weights: RankingWeights


def open_checkpoint(checkpoint: Path, codes: np.ndarray, vectors: np.ndarray) -> TrainedModel:
    """Load TIGER or SASRec from the folder that training wrote.

    Args:
        checkpoint: the folder.
        codes: semantic IDs with suffix by catalogue row, int [n_items, L].
        vectors: item text vectors by catalogue row, float32 [n_items, dim].

    Raises:
        GenrecError: the folder holds no such model, or the model was trained on another catalogue.
    """
    kind = read_json(checkpoint / "config.json").get("model_type")
    if kind == "genrec_tiger":
        tiger = TorchScorer.from_folder(checkpoint, codes, vectors)
        return TrainedModel(tiger, tiger.model.config.max_history, ranking_weights(tiger.model.config))
    if kind != "genrec_sasrec":
        raise GenrecError(f"{checkpoint}: holds a model of kind {kind}; give a folder that `genrec train` wrote")
    model = SasRecModel.from_pretrained(checkpoint)
    if model.config.n_items != len(codes):
        raise GenrecError(
            f"{checkpoint} knows {model.config.n_items} items, but there are {len(codes)}; train it again"
        )
    return TrainedModel(SasRecScorer(model), model.config.max_history, RankingWeights(True, 1.0, generative=False))
