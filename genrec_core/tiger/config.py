"""The shape of a TIGER model, saved beside its weights."""

from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

from genrec_core.errors import GenrecError

# Options that earlier versions had, and the value that turned each of them off. All old checkpoints name them.
_TAKEN_OUT = {"code_dropout": 0.0, "parallel_levels": False}


class TigerConfig(PretrainedConfig):
    """Sizes of a :class:`~genrec_core.tiger.model.TigerModel`; transformers makes a dataclass of them.

    Raises:
        GenrecError: the sizes do not fit each other, or an option is on that this version does not have.
    """

    model_type = "genrec_tiger"

    level_sizes: Sequence[int] = (256, 256, 256, 16)  # vocabulary of each level, the collision suffix last
    item_vector_dim: int = 0  # width of the text vectors that the encoder reads beside the codes; 0 for none
    known_items: int = 0  # items below this catalogue row have a learned vector; 0 for none
    untrained_items: Sequence[int] = ()  # rows below ``known_items`` that are in no training history
    prefix_buckets: int = 16384  # rows of the table of prefix vectors; a prefix finds its row by a hash

    d_model: int = 128
    heads: int = 4
    encoder_layers: int = 2
    decoder_layers: int = 2
    d_ff: int = 512
    dropout: float = 0.2
    max_history: int = 50  # newest items of a history that the encoder reads

    dense: bool = True  # whether the dense head was trained; without it only the generative ranking works
    content_views: int = 1  # encoders of the dense head that read the items' content; the decoder reads the first
    id_views: int = 0  # encoders of the dense head that know items by a learned vector alone
    id_dropout: float = 0.5  # dropout probability of the identity encoders
    text_neighbors: int = 0  # items with the nearest texts that get a higher dense score, for each history item
    neighbor_weight: float = 0.0  # how much higher, in logits; 0 for not at all
    hybrid_weight: float = 0.5  # share of the dense head in the hybrid ranking, from 0 to 1

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the sizes; transformers calls this after it has set the fields."""
        for name, off in _TAKEN_OUT.items():
            value = kwargs.pop(name, off)
            if value != off:
                raise GenrecError(f"{name} is {value}, but that option was taken out; train it again with this version")
        if self.d_model % self.heads:
            raise GenrecError(f"d_model {self.d_model} is not a multiple of heads {self.heads}; change one of them")
        if self.id_views and not self.known_items:
            raise GenrecError("id_views needs learn_item_vectors; set id_views to 0 or learn_item_vectors to true")
        if self.views > 1 and not self.dense:
            raise GenrecError(
                "several views need a dense_weight above 0; raise it, or set id_views to 0 and content_views to 1"
            )
        self.level_sizes, self.untrained_items = list(self.level_sizes), list(self.untrained_items)
        super().__post_init__(**kwargs)

    @property
    def views(self) -> int:
        """Encoders of the dense head; each item has as many vectors and keys of ``d_model``."""
        return self.content_views + self.id_views
