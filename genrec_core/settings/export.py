"""Settings of the export."""

from pydantic import Field

from genrec_core.settings.base import Settings


class ExportSettings(Settings):
    """The form in which the model serves."""

    int8: bool = Field(
        False,
        description="Round the weights to int8: smaller and faster, with nearly the same lists. Refused if that costs "
        "recall on validation.",
    )
    largest_loss: float = Field(
        0.01, ge=0, le=1, description="Most of validation Recall@10 that a ranking may lose by int8, as a share."
    )
    users: int = Field(4000, ge=1, description="Validation users that decide, with int8.")
