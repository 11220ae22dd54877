"""Settings of the export."""

from pydantic import Field

from genrec_core.settings.base import Settings


class ExportSettings(Settings):
    """The form in which the model serves."""

    int8: bool = Field(
        False,
        description="Round the exported weights to int8: smaller and faster, with nearly the same lists. The export "
        "fails if recall on the validation items falls too far.",
    )
    largest_loss: float = Field(
        0.01, ge=0, le=1, description="Largest share of a ranking's validation Recall@10 that int8 weights may cost."
    )
    users: int = Field(4000, ge=1, description="Validation users on whom int8 weights are compared with float32.")
