"""Settings of the text vectors."""

from pydantic import Field

from genrec_core.settings.base import Settings


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
