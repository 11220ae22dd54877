"""Settings of the catalogue, the text vectors and the semantic IDs."""

import math
from typing import ClassVar, Literal

from pydantic import Field

from genrec_core.errors import GenrecError
from genrec_core.settings.base import Settings

_LARGEST_CHOSEN = 256  # centroids of a level, where the number of items chooses
_FEWEST_LEVELS, _MOST_LEVELS, _CODES_AN_ITEM = 3, 8, 8  # likewise; codes without suffix, of which many stay unused
DEFAULT_TEXT_TEMPLATE = "Title: {title}; Brand: {brand}; Categories: {categories}; Price: {price};"


class CatalogSettings(Settings):
    """How an item becomes a line of text."""

    main: ClassVar[tuple[str, ...]] = ("text_template",)

    text_template: str | None = Field(
        None,
        description="Template of an item's text, such as `Title: {title}; Brand: {brand};`. Unset: the template of the "
        "raw data. Fields: title, brand, categories, price, description, and further columns of the catalogue. Each "
        "part ends with ';' and is left out if an item lacks its field.",
    )


class EmbeddingSettings(Settings):
    """How item text becomes a vector."""

    main: ClassVar[tuple[str, ...]] = ("model", "own_vectors", "max_tokens")

    model: str = Field(
        "all-MiniLM-L6-v2",
        description="Sentence encoder that turns texts into vectors: all-MiniLM-L6-v2 (a Python package), a Hugging "
        "Face name, or a folder.",
    )
    batch_size: int = Field(64, ge=1, le=4096, description="Number of texts that the sentence encoder reads at once.")
    max_tokens: int = Field(
        128,
        ge=8,
        le=8192,
        description="Number of tokens that the sentence encoder reads of an item's text. The rest of the text is cut "
        "off.",
    )
    int8: bool = Field(
        False,
        description="Whether onnxruntime computes the sentence encoder, on the CPU and with weights in int8. That "
        "takes less time than torch, and the vectors differ a little; if they differ much, the run fails.",
    )
    own_vectors: Literal["replace", "join", "ignore"] = Field(
        "replace",
        description="Use of the item vectors in the raw data, if there are any. `replace`: they take the place of the "
        "texts' vectors. `join`: both are put side by side. `ignore`: only the texts' vectors are used.",
    )


class SemanticIdSettings(Settings):
    """How an item vector becomes a semantic ID."""

    main: ClassVar[tuple[str, ...]] = (
        "levels",
        "codebook_size",
        "collaborative_weight",
        "collaborative_window",
        "refit",
    )

    levels: int | None = Field(
        3,
        ge=1,
        le=8,
        description="Number of levels of a semantic ID, each with a codebook of its own. The suffix is not counted. "
        "Unset: chosen by the number of items, at least 3.",
    )
    codebook_size: int | None = Field(
        256,
        ge=2,
        le=65536,
        description="Number of centroids of each level, unless `codebook_sizes` is set. Unset: chosen by the number of "
        "items, at most 256.",
    )
    codebook_sizes: list[int] | None = Field(
        None,
        description="Number of centroids of each level, one entry for each level. Unset: `codebook_size` for all "
        "levels.",
    )
    transform: Literal["none", "l2"] = Field(
        "l2",
        description="Scaling of the text vectors before k-means. `l2`: each vector gets the length 1. `none`: the "
        "vectors stay as they are.",
    )
    collaborative_weight: float = Field(
        1.0,
        ge=0,
        le=100,
        description="Length of the collaborative vectors, which say what users buy together. Text vectors have the "
        "length 1. 0: semantic IDs follow from the texts alone.",
    )
    collaborative_dims: int = Field(
        64,
        ge=1,
        le=4096,
        description="Number of dimensions of the collaborative vectors, which say what users buy together.",
    )
    collaborative_window: int = Field(
        5,
        ge=1,
        le=1000,
        description="Largest distance, in places of a history, at which two items count as bought together.",
    )
    iterations: int = Field(50, ge=1, le=10_000, description="Largest number of k-means iterations for each level.")
    tolerance: float = Field(
        1e-4,
        ge=0,
        description="Smallest share by which a k-means iteration must lower the error of its level. A smaller gain "
        "ends the level.",
    )
    seed: int = Field(
        42,
        ge=0,
        description="Random seed of k-means. It decides the first centroids, and those that replace empty clusters.",
    )
    refit: Literal["auto", "always", "never"] = Field(
        "auto",
        description="When all items get new codebooks and codes. `auto`: if the training part of the histories or more "
        "than `refit_share` of the items changed. `always`: in every run. `never`: only the first time; a run fails "
        "if the old codes cannot be kept.",
    )
    refit_share: float = Field(
        0.2, ge=0, description="Share of items that may change before `refit: auto` fits new codebooks."
    )

    def sizes(self, items: int) -> list[int]:
        """Centroids of each level for a catalogue of ``items``, as many entries as ``levels``.

        An unset ``codebook_size`` is the power of two whose square is at least twice ``items``, so that two levels
        leave few items to a prefix. Unset ``levels`` are the fewest, from 3 on, that have eight codes for each item.
        """
        if self.codebook_sizes is None:
            by_items = min(_LARGEST_CHOSEN, 2 ** max(1, math.ceil(math.log2(2 * items) / 2)))
            size = self.codebook_size or by_items
            needed = math.ceil(math.log(_CODES_AN_ITEM * items) / math.log(size))
            return [size] * (self.levels or min(_MOST_LEVELS, max(_FEWEST_LEVELS, needed)))
        if self.levels is not None and len(self.codebook_sizes) != self.levels:
            raise GenrecError(
                f"codebook_sizes has {len(self.codebook_sizes)} entries but levels is {self.levels}; make them equal"
            )
        return list(self.codebook_sizes)
