"""Settings of the catalogue, the text vectors and the semantic IDs."""

from typing import Literal

from pydantic import Field

from genrec_core.errors import GenrecError
from genrec_core.settings.base import Settings

DEFAULT_TEXT_TEMPLATE = "Title: {title}; Brand: {brand}; Categories: {categories}; Price: {price};"


class CatalogSettings(Settings):
    """How an item becomes a line of text."""

    text_template: str = Field(
        DEFAULT_TEXT_TEMPLATE,
        description="Template of an item's text. Fields: title, brand, categories, price, description. Each part ends "
        "with ';'. An item that lacks a part's field gets its text without that part.",
    )


class EmbeddingSettings(Settings):
    """How item text becomes a vector."""

    model: str = Field(
        "all-MiniLM-L6-v2",
        description="Sentence encoder: all-MiniLM-L6-v2 (a Python package, verified by sha256), a name on the Hugging "
        "Face hub, or a folder.",
    )
    batch_size: int = Field(64, ge=1, le=4096, description="Texts that the sentence encoder reads at once.")
    max_tokens: int = Field(
        128, ge=8, le=8192, description="Tokens of a text that the sentence encoder reads; the rest is cut off."
    )


class SemanticIdSettings(Settings):
    """How an item vector becomes a semantic ID."""

    levels: int = Field(
        3, ge=1, le=8, description="Levels of residual k-means in a semantic ID, without the collision suffix."
    )
    codebook_size: int = Field(
        256, ge=2, le=65536, description="Centroids of each level, unless `codebook_sizes` names them."
    )
    codebook_sizes: list[int] | None = Field(
        None, description="Centroids of each level as a list; unset: `codebook_size` on all levels."
    )
    transform: Literal["none", "l2"] = Field(
        "l2", description="Scaling of the text vectors before k-means: `l2` gives each the length 1, `none` keeps them."
    )
    collaborative_weight: float = Field(
        1.0,
        ge=0,
        le=100,
        description="Length of an item's collaborative vector, which says what users buy together. The text vector "
        "beside it has length 1.",
    )
    collaborative_dims: int = Field(64, ge=1, le=4096, description="Dimensions of the collaborative vectors.")
    collaborative_window: int = Field(
        5,
        ge=1,
        le=1000,
        description="Two items of a history count as bought together if at most this many items apart.",
    )
    iterations: int = Field(50, ge=1, le=10_000, description="Largest number of k-means iterations in a level.")
    tolerance: float = Field(
        1e-4, ge=0, description="A level's k-means stops when the error falls by less than this share in an iteration."
    )
    seed: int = Field(42, ge=0, description="Random seed of k-means: first centroids and replaced empty clusters.")
    refit: Literal["auto", "always", "never"] = Field(
        "auto",
        description="When new data gets new codebooks, and so new codes for all items. `auto`: when the training "
        "part of the histories or more than `refit_share` of the items changed; otherwise only new and changed items "
        "get codes. `always`: every time. `never`: only the first time; fails if the old codes cannot be kept.",
    )
    refit_share: float = Field(
        0.2,
        ge=0,
        description="Share of new, changed and removed items since the last fit above which `refit` = `auto` fits new "
        "codebooks.",
    )

    def sizes(self) -> list[int]:
        """Centroids of each level, as many entries as ``levels``."""
        if self.codebook_sizes is None:
            return [self.codebook_size] * self.levels
        if len(self.codebook_sizes) != self.levels:
            raise GenrecError(
                f"codebook_sizes has {len(self.codebook_sizes)} entries but levels is {self.levels}; make them equal"
            )
        return list(self.codebook_sizes)
