"""Item text to vectors, and the vectors on disk."""

from genrec_core.embedding.item_embeddings import ItemEmbeddings, l2_normalized, write_item_embeddings
from genrec_core.embedding.text import embed_texts

__all__ = ["ItemEmbeddings", "embed_texts", "l2_normalized", "write_item_embeddings"]
