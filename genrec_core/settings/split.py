"""Settings of the split into what is trained, validated and tested."""

from typing import Literal

from pydantic import Field

from genrec_core.settings.base import Settings

_DATE = r"^\d{4}-\d{2}-\d{2}$"


class SplitSettings(Settings):
    """Which interactions are trained on, and which are kept to validate and to test."""

    split: Literal["leave_one_out", "temporal"] = Field(
        "leave_one_out",
        description="`leave_one_out`: each user's last item is tested, the one before it validated. `temporal`: one "
        "point in time for everybody; train before it, validate in the window after it, test in the last window, and "
        "measure the mean over each user's items of a window.",
    )
    validation_from: str | None = Field(
        None,
        pattern=_DATE,
        description="Temporal split: first day (UTC, YYYY-MM-DD) of the validation window; unset: `validation_share`.",
    )
    test_from: str | None = Field(
        None,
        pattern=_DATE,
        description="Temporal split: first day (UTC, YYYY-MM-DD) of the test window; unset: `test_share`.",
    )
    validation_share: float = Field(
        0.1, gt=0, lt=0.5, description="Temporal split: share of all interactions in the validation window."
    )
    test_share: float = Field(
        0.1, gt=0, lt=0.5, description="Temporal split: share of all interactions in the test window, the newest ones."
    )
