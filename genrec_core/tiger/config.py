"""The shape of a TIGER model, saved beside its weights."""

from typing import Any

from transformers import PretrainedConfig

from genrec_core.errors import GenrecError


class TigerConfig(PretrainedConfig):
    """Sizes of a :class:`~genrec_core.tiger.model.TigerModel`.

    Args:
        level_sizes: vocabulary by level, the collision suffix last.
        item_vector_dim: width of the item text vectors that the encoder reads beside the codes; 0 for none.
        known_items: catalogue rows below this have a learned vector of their own in the encoder; 0 for none.
        untrained_items: those of them that no training history held, so that their learned vectors say nothing.
        prefix_buckets: rows of the table of prefix vectors that the decoder reads, addressed by a hash of the prefix.
        d_model: width of the Transformer.
        heads: attention heads; divides ``d_model``.
        encoder_layers: causal layers over the history.
        decoder_layers: layers over the levels.
        d_ff: width of the feed-forward layers.
        dropout: dropout probability.
        max_history: newest items of a history that the encoder reads.
        id_view: whether a second encoder reads the items' identities alone, for the dense head.
        id_dropout: dropout probability of that encoder.
        dense: whether the dense head was trained; without it items can be ranked by generating alone.
        hybrid_weight: share of the dense head in the hybrid ranking, from 0 (generating alone) to 1 (dense alone).

    Raises:
        GenrecError: ``heads`` does not divide ``d_model``, or ``id_view`` is asked for without ``known_items`` or
            ``dense``.
    """

    model_type = "genrec_tiger"

    def __init__(
        self,
        level_sizes: tuple[int, ...] | list[int] = (256, 256, 256, 16),
        item_vector_dim: int = 0,
        known_items: int = 0,
        prefix_buckets: int = 16384,
        d_model: int = 128,
        heads: int = 4,
        encoder_layers: int = 2,
        decoder_layers: int = 2,
        d_ff: int = 512,
        dropout: float = 0.2,
        max_history: int = 50,
        id_view: bool = False,
        id_dropout: float = 0.5,
        dense: bool = True,
        hybrid_weight: float = 0.5,
        untrained_items: tuple[int, ...] | list[int] = (),
        **kwargs: Any,
    ) -> None:
        if d_model % heads:
            raise GenrecError(f"d_model {d_model} is not a multiple of heads {heads}; change one of them")
        if id_view and not (known_items and dense):
            raise GenrecError("id_view needs learn_item_vectors and a dense_weight above 0; set id_view false or these")
        self.level_sizes = list(level_sizes)
        self.item_vector_dim = item_vector_dim
        self.known_items = known_items
        self.prefix_buckets = prefix_buckets
        self.d_model = d_model
        self.heads = heads
        self.encoder_layers = encoder_layers
        self.decoder_layers = decoder_layers
        self.d_ff = d_ff
        self.dropout = dropout
        self.max_history = max_history
        self.id_view = id_view
        self.id_dropout = id_dropout
        self.dense = dense
        self.hybrid_weight = hybrid_weight
        self.untrained_items = list(untrained_items)
        super().__init__(**kwargs)
