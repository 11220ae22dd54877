"""Settings of the catalogue, the text vectors and the semantic IDs."""

import math
from typing import Literal

from pydantic import Field

from genrec_core.errors import GenrecError
from genrec_core.settings.base import Settings

_LARGEST_CHOSEN = 256  # centroids of a level, where the number of items chooses
DEFAULT_TEXT_TEMPLATE = "Title: {title}; Brand: {brand}; Categories: {categories}; Price: {price};"


class CatalogSettings(Settings):
    """How an item becomes a line of text."""

    text_template: str | None = Field(
        None,
        description="Template of an item's text, such as `Title: {title}; Brand: {brand};`; unset: the raw data's own. "
        "Fields: title, brand, categories, price, description, and further columns of the catalogue. Each part ends "
        "with ';' and is left out if an item lacks its field.",
    )


class EmbeddingSettings(Settings):
    """How item text becomes a vector."""

    model: str = Field(
        "all-MiniLM-L6-v2",
        description="Sentence encoder: all-MiniLM-L6-v2 (a Python package), a Hugging Face name, or a folder.",
    )
    batch_size: int = Field(64, ge=1, le=4096, description="Texts that the sentence encoder reads at once.")
    max_tokens: int = Field(128, ge=8, le=8192, description="Tokens of a text that are read; the rest is cut off.")
    own_vectors: Literal["replace", "join", "ignore"] = Field(
        "replace",
        description="Use of the vectors that the raw data bring: `replace` takes them instead of the texts' vectors, "
        "`join` puts both side by side, `ignore` takes the texts' alone.",
    )


class SemanticIdSettings(Settings):
    """How an item vector becomes a semantic ID."""

    levels: int = Field(3, ge=1, le=8, description="Levels of residual k-means in a semantic ID, beside the suffix.")
    codebook_size: int | None = Field(
        256,
        ge=2,
        le=65536,
        description="Centroids of a level if `codebook_sizes` is unset; unset: by the number of items, at most 256.",
    )
    codebook_sizes: list[int] | None = Field(None, description="Centroids of each level; unset: `codebook_size`.")
    transform: Literal["none", "l2"] = Field(
        "l2", description="Scaling of the text vectors before k-means: `l2` gives each the length 1, `none` keeps them."
    )
    collaborative_weight: float = Field(
        1.0, ge=0, le=100, description="Length of the vector that says what users buy together; text vectors have 1."
    )
    collaborative_dims: int = Field(64, ge=1, le=4096, description="Dimensions of the collaborative vectors.")
    collaborative_window: int = Field(
        5, ge=1, le=1000, description="Largest distance in a history of items that count as bought together."
    )
    iterations: int = Field(50, ge=1, le=10_000, description="Largest number of k-means iterations in a level.")
    tolerance: float = Field(
        1e-4, ge=0, description="A level's k-means stops when an iteration lowers the error by less than this share."
    )
    seed: int = Field(42, ge=0, description="Random seed of k-means: first centroids and replaced empty clusters.")
    refit: Literal["auto", "always", "never"] = Field(
        "auto",
        description="When all items get new codebooks and codes. `auto`: if the training part of the histories or more "
        "than `refit_share` of the items changed. `always`: every time. `never`: only the first time; fails if the "
        "old codes cannot be kept.",
    )
    refit_share: float = Field(
        0.2, ge=0, description="Share of items changed since the last fit that makes `auto` fit new codebooks."
    )

    def sizes(self, items: int) -> list[int]:
        """Centroids of each level for a catalogue of ``items``, as many entries as ``levels``.

        An unset ``codebook_size`` is the power of two whose square is at least twice ``items``, so that two levels
        leave few items to a prefix.
        """
        if self.codebook_sizes is None:
            by_items = min(_LARGEST_CHOSEN, 2 ** max(1, math.ceil(math.log2(2 * items) / 2)))
            return [self.codebook_size or by_items] * self.levels
        if len(self.codebook_sizes) != self.levels:
            raise GenrecError(
                f"codebook_sizes has {len(self.codebook_sizes)} entries but levels is {self.levels}; make them equal"
            )
        return list(self.codebook_sizes)
