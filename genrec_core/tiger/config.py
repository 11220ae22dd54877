"""The shape of a TIGER model, saved beside its weights."""

from typing import Any

from transformers import PretrainedConfig

from genrec_core.errors import GenrecError

# Options of earlier versions, which all their checkpoints name, with the value of one that was off.
_TAKEN_OUT = {"code_dropout": 0.0, "parallel_levels": False}


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
        content_views: encoders that read the items' content, for the dense head; the decoder reads the first.
        id_views: encoders that read the items' identities alone, for the dense head.
        id_dropout: dropout probability of those.
        text_neighbors: items of the nearest texts that are lifted in the dense head's ranking for each history item.
        neighbor_weight: how far, in logits; 0 for not at all.
        dense: whether the dense head was trained; without it items can be ranked by generating alone.
        hybrid_weight: share of the dense head in the hybrid ranking, from 0 (generating alone) to 1 (dense alone).

    Raises:
        GenrecError: ``heads`` does not divide ``d_model``, or there is more than one view without ``dense``, or
            an identity view without ``known_items``, or an option is on that was taken out.
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
        content_views: int = 1,
        id_views: int = 0,
        id_dropout: float = 0.5,
        text_neighbors: int = 0,
        neighbor_weight: float = 0.0,
        dense: bool = True,
        hybrid_weight: float = 0.5,
        untrained_items: tuple[int, ...] | list[int] = (),
        **kwargs: Any,
    ) -> None:
        for name, off in _TAKEN_OUT.items():
            value = kwargs.pop(name, off)
            if value != off:
                raise GenrecError(f"{name} is {value}, but that option was taken out; train it again with this version")
        if d_model % heads:
            raise GenrecError(f"d_model {d_model} is not a multiple of heads {heads}; change one of them")
        if id_views and not known_items:
            raise GenrecError("id_views needs learn_item_vectors; set id_views to 0 or learn_item_vectors to true")
        if content_views + id_views > 1 and not dense:
            raise GenrecError(
                "several views need a dense_weight above 0; set id_views to 0 and content_views to 1, or raise it"
            )
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
        self.content_views = content_views
        self.id_views = id_views
        self.id_dropout = id_dropout
        self.text_neighbors = text_neighbors
        self.neighbor_weight = neighbor_weight
        self.dense = dense
        self.hybrid_weight = hybrid_weight
        self.untrained_items = list(untrained_items)
        super().__init__(**kwargs)

    @property
    def views(self) -> int:
        """Views of the dense head; each item has as many vectors and keys of ``d_model``."""
        return self.content_views + self.id_views
