"""Opens a trained model of any kind, and evaluates one against the artefacts of the graph."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from genrec_core.data.histories import Histories
from genrec_core.embedding.item_embeddings import ItemEmbeddings
from genrec_core.errors import GenrecError
from genrec_core.evaluation.evaluate import Evaluation, evaluate
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.sasrec.model import SasRecModel, SasRecScorer
from genrec_core.search.beams import CodeScorer
from genrec_core.search.generative import RankingWeights
from genrec_core.search.held_out import OnProgress
from genrec_core.settings import EvaluationSettings
from genrec_core.storage.artifacts import read_json
from genrec_core.tiger.scorer import TorchScorer, one_thread_an_operator, ranking_weights


@dataclass(frozen=True)
class TrainedModel:
    """A model with the newest items of a history that it reads, and the weights of its ranking modes."""

    scorer: CodeScorer
    max_history: int
    weights: RankingWeights


def open_checkpoint(checkpoint: Path, codes: np.ndarray, vectors: np.ndarray) -> TrainedModel:
    """Load TIGER or SASRec from the folder that training wrote.

    Args:
        codes: semantic IDs with suffix by catalogue row, int [n_items, L].
        vectors: item text vectors by catalogue row, float32 [n_items, dim].
    """
    kind = read_json(checkpoint / "config.json").get("model_type")
    if kind == "genrec_tiger":
        tiger = TorchScorer.from_folder(checkpoint, codes, vectors)
        return TrainedModel(tiger, tiger.model.config.max_history, ranking_weights(tiger.model.config))
    if kind != "genrec_sasrec":
        raise GenrecError(f"{checkpoint}: holds a model of kind {kind}; give a folder that `genrec train` wrote")
    model = SasRecModel.from_pretrained(checkpoint)
    if model.config.n_items != len(codes):
        raise GenrecError(f"{checkpoint} knows {model.config.n_items} items, but there are {len(codes)}; train again")
    return TrainedModel(SasRecScorer(model), model.config.max_history, RankingWeights(True, 1.0, generative=False))


def evaluate_checkpoint(
    checkpoint: Path,
    semantic_ids: Path,
    embeddings: Path,
    user_histories: pl.DataFrame,
    settings: EvaluationSettings,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Measure a trained model on the test items, and ``settings.baseline`` on the same users if it is set.

    Args:
        checkpoint, semantic_ids, embeddings: the folders of these assets.
        user_histories: ``user_id`` and ``item_ids``, oldest first.
        on_progress: told the users ranked and all users of all modes, after each batch.
    """
    ids, vectors = SemanticIds.load(semantic_ids), ItemEmbeddings.load(embeddings).l2norm
    histories = Histories.from_frame(user_histories, ids.item_ids)
    model = open_checkpoint(checkpoint, ids.codes, vectors)
    baseline = open_checkpoint(Path(settings.baseline), ids.codes, vectors).scorer if settings.baseline else None
    with one_thread_an_operator():
        return evaluate(
            model.scorer, ids, histories, settings, model.max_history, model.weights, on_progress, baseline=baseline
        )
