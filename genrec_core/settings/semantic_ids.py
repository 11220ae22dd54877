"""Settings of the semantic IDs."""

from typing import Literal

from pydantic import Field

from genrec_core.errors import GenrecError
from genrec_core.settings.base import Settings


class SemanticIdSettings(Settings):
    """How an item vector becomes a semantic ID."""

    levels: int = Field(3, ge=1, le=8, description="Residual k-means levels, the collision suffix not counted.")
    codebook_size: int = Field(256, ge=2, le=65536, description="Centroids a level.")
    codebook_sizes: list[int] | None = Field(None, description="Centroids by level, where levels differ.")
    transform: Literal["none", "l2"] = Field("l2", description="What is done to the vectors before k-means.")
    collaborative_weight: float = Field(
        1.0, ge=0, le=100, description="Length of what users buy together, as a vector, beside the text's length of 1."
    )
    collaborative_dims: int = Field(64, ge=1, le=4096, description="Dimensions of that vector.")
    collaborative_window: int = Field(
        5, ge=1, le=1000, description="How near two items of a history count as together."
    )
    iterations: int = Field(50, ge=1, le=10_000, description="Lloyd iterations a level, at most.")
    tolerance: float = Field(1e-4, ge=0, description="Stop when the error falls by less than this share.")
    seed: int = Field(42, ge=0, description="Seed of k-means++ and of re-seeding dead centroids.")
    refit: Literal["auto", "always", "never"] = Field(
        "auto",
        description="When a changed catalogue gets new codebooks, and all items new codes: `auto` where what the codes "
        "take from the histories changed, or more than `refit_share` of the items; otherwise unchanged items keep "
        "theirs and the others get codes from the codebooks as they are. `never` fits only the first codebooks, and "
        "fails where the codes so far cannot be kept.",
    )
    refit_share: float = Field(
        0.2, ge=0, description="Items that came, changed or went since the last fit, as a share of those it was of."
    )

    def sizes(self) -> list[int]:
        """Centroids by level, as many as ``levels``."""
        if self.codebook_sizes is None:
            return [self.codebook_size] * self.levels
        if len(self.codebook_sizes) != self.levels:
            raise GenrecError(f"codebook_sizes has {len(self.codebook_sizes)} entries but levels is {self.levels}")
        return list(self.codebook_sizes)
