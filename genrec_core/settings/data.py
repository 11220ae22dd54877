"""Settings of what is taken from the raw data."""

from typing import Literal

from pydantic import Field

from genrec_core.settings.base import Settings


class DataSettings(Settings):
    """Which columns of the raw tables mean what, and which interactions are left out."""

    interactions: str | None = Field(
        None,
        description="Name of the file of interactions, such as transactions_train.csv, or of its folder of parts, such "
        "as events/*; unset: found by the usual names.",
    )
    items: str | None = Field(None, description="Name of the file or folder of items, as for `interactions`.")
    columns: dict[str, str] = Field(
        {},
        description="Columns whose meaning their names do not tell, such as {user: buyer, item: article}. Meanings: "
        "user, item, time, event, weight; of items also title, brand, categories, price, description, vector.",
    )
    header: list[str] | None = Field(
        None, description="Names of the columns of the interactions, if their CSV file begins without a line of names."
    )
    events: list[str] | None = Field(
        None, description="Kinds of events that are kept, such as [purchase]; unset: all kinds."
    )
    least_rating: float | None = Field(
        None, description="Least rating (weight) of an interaction that is kept; unset: all are kept."
    )
    drop_duplicates: bool = Field(
        True, description="Keep one of several interactions of the same user, item and time, if there are times."
    )
    drop_repeats: bool = Field(False, description="Keep one of several interactions in a row with the same item.")
    k_core: int = Field(
        0,
        ge=0,
        le=1000,
        description="Interactions that each user and each item must have; users and items with fewer are left out, "
        "until none has fewer. Benchmarks use 5; 0 keeps all.",
    )
    least_interactions: int = Field(1, ge=1, description="Interactions that a user must have to be kept.")
    most_interactions: int = Field(
        3000,
        ge=3,
        description="Interactions of a user that are kept, the newest ones, so that no crawler outweighs customers.",
    )
    unknown_items: Literal["keep", "drop"] = Field(
        "keep",
        description="Interactions with items that the table of items lacks: `keep` adds such items to the catalogue "
        "without a description, `drop` leaves the interactions out.",
    )
