"""SASRec: a causal Transformer over item embeddings, whose output is compared with the same embeddings.

Source: Kang & McAuley 2018, "Self-Attentive Sequential Recommendation", with the loss of Klenitskiy & Vasilev 2023,
"Turning Dross Into Gold Loss": cross-entropy over the whole catalogue instead of one sampled negative.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from genrec_core.data.histories import HistoryBatch
from genrec_core.errors import GenrecError
from genrec_core.search.beams import CodeScorer
from genrec_core.search.trie import CodeTrie
from genrec_core.tiger.checkpoint import WholeModel
from genrec_core.tiger.losses import catalogue_cross_entropy
from genrec_core.tiger.model import CausalEncoder, TigerConfig
from genrec_core.tiger.training import Trainer, TrainingData

_SIZES = {"d_model", "heads", "d_ff", "dropout", "max_history"}  # of this model, of TIGER and of the settings


class SasRecConfig(PretrainedConfig):
    """Sizes of a :class:`SasRecModel`; transformers makes a dataclass of them."""

    model_type = "genrec_sasrec"

    n_items: int = 1
    d_model: int = 128  # width of the Transformer and of the item embeddings
    heads: int = 2
    layers: int = 2
    d_ff: int = 512
    dropout: float = 0.5
    max_history: int = 50  # newest items of a history that are read
    exclude_seen: bool = True  # as in ``TigerConfig``


class SasRecModel(WholeModel):
    """Item embeddings and TIGER's encoder, which learns a bias by distance instead of positions."""

    config_class = SasRecConfig
    config: SasRecConfig

    def __init__(self, config: SasRecConfig) -> None:
        super().__init__(config)
        self.items = nn.Embedding(config.n_items, config.d_model)
        self.encoder = self._build_encoder(config)
        self.post_init()

    def _build_encoder(self, config: SasRecConfig) -> nn.Module:
        sizes = TigerConfig(encoder_layers=config.layers, **{name: getattr(config, name) for name in _SIZES})
        return CausalEncoder(sizes, config.dropout)

    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights of the usual Transformer scale, zero biases."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def queries(self, rows: Tensor, inside: Tensor) -> Tensor:
        """The predictions [N, D] after the positions where ``inside``, bool [B, T], of the rows int64 [B, T]."""
        encoded: Tensor = self.encoder(self.items(rows) * self.config.d_model**0.5)
        return encoded[inside]


class SasRecLoss(nn.Module):
    """Cross-entropy of the next item over the whole catalogue, summed over targets."""

    def __init__(self, model: SasRecModel, label_smoothing: float) -> None:
        super().__init__()
        self.model, self.label_smoothing = model, label_smoothing

    def forward(self, history: Tensor, targets: Tensor) -> Tensor:
        """Catalogue rows and targets int64 [B, T], -1 where there is no target, to a scalar."""
        inside = targets >= 0
        queries = self.model.queries(history, inside)
        return catalogue_cross_entropy([queries], [self.model.items.weight], [targets[inside]], self.label_smoothing)


class SasRecScorer:
    """A ``CodeScorer`` that only scores whole items: it ranks with ``dense_weight`` 1."""

    def __init__(self, model: SasRecModel) -> None:
        self.model = model.eval()

    def start(self, histories: HistoryBatch) -> "SasRecSession":
        """Read the histories of a batch; each holds at least one item."""
        return SasRecSession(self.model, histories)


class SasRecSession:
    """The scores of one batch; see ``ScorerSession``."""

    def __init__(self, model: SasRecModel, histories: HistoryBatch) -> None:
        rows = torch.as_tensor(histories.rows, dtype=torch.int64, device=model.device).clamp(min=0)
        newest = torch.as_tensor(histories.lengths, dtype=torch.int64, device=model.device) - 1
        last = torch.arange(rows.shape[1], device=model.device) == newest.unsqueeze(1)
        with torch.inference_mode():
            self.logits = (model.queries(rows, last) @ model.items.weight.T).float()

    def item_logits(self) -> np.ndarray:
        """Logits float32 [B, n_items]."""
        return np.asarray(self.logits.cpu())

    def matches(self, trie: CodeTrie) -> None:
        """None: see ``ScorerSession``; all items are scored."""

    def lifted(self) -> None:
        """None: see ``ScorerSession``; it matters to codes alone."""

    def first(self) -> np.ndarray:
        raise GenrecError("SASRec generates no codes; rank with dense_weight 1")

    def advance(self, tokens: np.ndarray, parents: np.ndarray, users: np.ndarray) -> np.ndarray:
        return self.first()


class SasRecTrainer(Trainer):
    """Trains SASRec by TIGER's own loop. Settings of codes, decoder and dense head have no effect."""

    model: SasRecModel
    model_class: type[SasRecModel] = SasRecModel
    config_class: type[SasRecConfig] = SasRecConfig

    def _neighbors(self, text_weight: float, follower_weight: float) -> None:
        """SASRec lifts none."""

    def _build_model(self, data: TrainingData) -> SasRecModel:
        sizes = self.settings.model_dump(include=_SIZES)
        config = self.config_class(n_items=len(data.codes), layers=self.settings.encoder_layers, **sizes)
        return self.model_class(config)

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

    def _validated(self, scorer: CodeScorer, exclude_seen: bool) -> dict[str, float]:
        return {"validation_recall@10": self._validation_recall(scorer, 1.0, exclude_seen)}

    def _conclude(self) -> dict[str, float]:
        best = self.model_class.from_pretrained(self.folder / "best")
        nn.Module.to(best, self.world.device)
        self._choose_seen(best, self._scorer(best), 1.0)
        self._save_best(best)
        return {"exclude_seen": float(best.config.exclude_seen)}
