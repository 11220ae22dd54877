"""Settings of what is taken from the raw data."""

from typing import ClassVar, Literal

from pydantic import Field

from genrec_core.settings.base import Settings


class DataSettings(Settings):
    """Which columns of the raw tables mean what, and which interactions are left out."""

    main: ClassVar[tuple[str, ...]] = ("columns", "events", "least_rating", "k_core", "most_interactions")

    interactions: str | None = Field(
        None,
        description="Name of the file of interactions, such as transactions_train.csv, or of a folder of parts, such "
        "as events/*. Unset: the file with a usual name.",
    )
    items: str | None = Field(
        None,
        description="Name of the file of items, such as articles.csv, or of a folder of parts, such as items/*. Unset: "
        "the file with a usual name.",
    )
    columns: dict[str, str] = Field(
        {},
        description="Columns whose names do not tell their meaning, as {meaning: column}, such as {user: buyer, item: "
        "article}. Meanings: user, item, time, event, weight; of items also title, brand, categories, price, "
        "description, vector.",
    )
    header: list[str] | None = Field(
        None,
        description="Names of the columns of the interactions, for a CSV file that does not begin with a line of "
        "names.",
    )
    events: list[str] | None = Field(None, description="Kinds of events to keep, such as [purchase]. Unset: all kinds.")
    least_rating: float | None = Field(
        None, description="Smallest rating (or weight) of the interactions to keep. Unset: all are kept."
    )
    drop_duplicates: bool = Field(
        True,
        description="Keep one of several interactions that have the same user, item and time. Without times, none is "
        "dropped.",
    )
    drop_repeats: bool = Field(
        False, description="Keep one of several interactions of a user in a row with the same item."
    )
    k_core: int = Field(
        0,
        ge=0,
        le=1000,
        description="Smallest number of interactions of each user and of each item. Users and items with fewer are "
        "left out, until none has fewer. Benchmarks use 5; 0 keeps all.",
    )
    least_interactions: int = Field(
        1, ge=1, description="Smallest number of interactions of a user. Users with fewer are left out."
    )
    most_interactions: int = Field(
        3000,
        ge=3,
        description="Largest number of interactions of a user. Only the newest ones are kept, so that no crawler "
        "outweighs customers.",
    )
    unknown_items: Literal["keep", "drop"] = Field(
        "keep",
        description="Interactions with items that the table of items lacks. `keep`: these items join the catalogue "
        "without a description. `drop`: the interactions are left out.",
    )
