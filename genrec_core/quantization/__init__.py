"""Item vectors to semantic IDs: k-means, the residual quantiser, collisions, new items."""

from genrec_core.quantization.residual import ResidualQuantizer
from genrec_core.quantization.semantic_ids import SemanticIds, assign_ids, build_semantic_ids

__all__ = ["ResidualQuantizer", "SemanticIds", "assign_ids", "build_semantic_ids"]
