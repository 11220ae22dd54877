"""Settings of the split into what is trained, validated and tested."""

from typing import ClassVar, Literal

from pydantic import Field

from genrec_core.settings.base import Settings

_DATE = r"^\d{4}-\d{2}-\d{2}$"


class SplitSettings(Settings):
    """Which interactions are trained on, and which are kept to validate and to test."""

    main: ClassVar[tuple[str, ...]] = ("split", "validation_from", "test_from")

    split: Literal["leave_one_out", "temporal"] = Field(
        "leave_one_out",
        description="How interactions are held out. `leave_one_out`: each user's last item is tested, the one before "
        "it validated. `temporal`: one point in time for all users. Training uses what lies before it, validation the "
        "window after it, the test the last window. Metrics are then means over each user's items of a window.",
    )
    validation_from: str | None = Field(
        None,
        pattern=_DATE,
        description="First day (UTC, YYYY-MM-DD) of the validation window of a temporal split. Unset: "
        "`validation_share` decides.",
    )
    test_from: str | None = Field(
        None,
        pattern=_DATE,
        description="First day (UTC, YYYY-MM-DD) of the test window of a temporal split. Unset: `test_share` decides.",
    )
    validation_share: float = Field(
        0.1, gt=0, lt=0.5, description="Share of all interactions in the validation window of a temporal split."
    )
    test_share: float = Field(
        0.1,
        gt=0,
        lt=0.5,
        description="Share of all interactions in the test window of a temporal split; the newest ones.",
    )
