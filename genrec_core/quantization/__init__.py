"""Item vectors to semantic IDs: the quantiser, k-means, collisions, new items."""

from genrec_core.quantization.build import build_semantic_ids
from genrec_core.quantization.new_items import assign_ids
from genrec_core.quantization.residual import ResidualQuantizer
from genrec_core.quantization.semantic_ids import SemanticIds

__all__ = ["ResidualQuantizer", "SemanticIds", "assign_ids", "build_semantic_ids"]
