"""Settings of the text vectors."""

from pydantic import Field

from genrec_core.settings.base import Settings


class EmbeddingSettings(Settings):
    """How item text becomes a vector."""

    model: str = Field(
        "all-MiniLM-L6-v2",
        description="all-MiniLM-L6-v2 (shipped as a Python package, verified by sha256), a hub name, or a folder.",
    )
    batch_size: int = Field(64, ge=1, le=4096, description="Texts encoded at once.")
    max_tokens: int = Field(128, ge=8, le=8192, description="Longer texts are cut to this many tokens.")
