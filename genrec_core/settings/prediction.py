"""Settings of prediction files and of the online server."""

from typing import ClassVar, Literal

from pydantic import Field

from genrec_core.settings.base import Settings

RankingMode = Literal["generative", "hybrid", "dense"]
RankingChoice = Literal["auto", "generative", "hybrid", "dense"]  # auto: what the training chose
Fallback = Literal["popular", "recent", "new"]  # see PredictionSettings.fallback


class PredictionSettings(Settings):
    """What a prediction file holds."""

    main: ClassVar[tuple[str, ...]] = ("top_k", "ranking", "exclude_seen", "rule", "workers")

    top_k: int = Field(128, ge=1, le=100_000, description="Number of items to recommend to each user.")
    beams: int | None = Field(
        None, ge=1, description="Number of beams of the search for semantic IDs. Unset: as many as `top_k` needs."
    )
    batch_users: int = Field(64, ge=1, le=4096, description="Number of users whose lists are computed in one batch.")
    ranking: RankingChoice = Field(
        "auto",
        description="Score that orders the items: `generative` (semantic IDs), `dense` (dense head), `hybrid` (both), "
        "or `auto`: the one that the training chose.",
    )
    exclude_seen: bool | None = Field(
        None, description="Do not recommend items of the user's own history. Unset: as the training chose."
    )
    rule: str | None = Field(
        None, description="Rule that all recommended items must meet, such as `brand = OPI`. Unset: no rule."
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Number of batches that are computed at the same time. Unset: one for each core.",
    )
    fallback: Fallback = Field(
        "popular",
        description="List of users without a known item: the items bought most (`popular`), those bought most in the "
        "last days (`recent`), or those first bought or added last (`new`). The last two need data with times.",
    )


class ExplanationSettings(Settings):
    """What ``genrec explain`` shows; each is an option of it."""

    top_k: int = Field(10, ge=1, le=1000, description="Number of recommended items that are explained.")
    reasons: int = Field(3, ge=0, le=1000, description="Number of items of the history shown for each of them.")
    ranking: RankingChoice = Field(
        "auto",
        description="Score that orders the items and is explained: `generative`, `dense`, `hybrid`, or `auto`: the one "
        "that the training chose.",
    )
    exclude_seen: bool | None = Field(
        None, description="Do not recommend items of the history. Unset: as the training chose."
    )
    rule: str | None = Field(
        None, description="Rule that all recommended items must meet, such as `brand = OPI`. Unset: no rule."
    )


class ServingSettings(Settings):
    """The online server; each is an option of ``genrec serve``."""

    name: str = Field(
        "mymodel", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="Name of the model, as in /predictions/mymodel."
    )
    page: bool = Field(True, description="Answer GET / with the demo page.")
    path_prefix: str = Field(
        "",
        max_length=200,
        pattern=r"^(/[A-Za-z0-9_.~-]+)*$",
        description="Path in front of every route where a proxy puts the server there, such as /recommend.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on; set a token for any but a loopback address.")
    port: int = Field(8080, ge=0, le=65535, description="Port that the server listens on; 0 for any free port.")
    threads: int | None = Field(
        None, ge=1, le=1024, description="Worker processes of one thread, each with its own model; unset: one a core."
    )
    batch_users: int = Field(16, ge=1, le=4096, description="Most users searched for in one batch.")
    max_wait_ms: float = Field(
        10, ge=0, le=10_000, description="Longest wait of a batch, in ms, for users who may soon ask again."
    )
    queue: int = Field(1024, ge=1, le=1_000_000, description="Most users that wait in the queue; others get 503.")
    max_instances: int = Field(256, ge=1, le=100_000, description="Most users in one request.")
    max_history: int = Field(1000, ge=1, le=1_000_000, description="Most items in a user's history.")
    max_topk: int = Field(1000, ge=1, le=100_000, description="Most items that a user can ask for.")
    max_listed: int = Field(100_000, ge=1, le=10_000_000, description="Most items in an allow list or a deny list.")
    max_titles: int = Field(10_000, ge=1, le=1_000_000, description="Most items with titles in one answer.")
    max_explained: int = Field(20, ge=1, le=1000, description="Items of each list that are explained; later ones not.")
    max_explained_users: int = Field(8, ge=1, le=10_000, description="Most users in one request with explanations.")
    max_body_kb: int = Field(1024, ge=1, le=1_048_576, description="Largest request body, in KiB.")
    body_seconds: int = Field(30, ge=1, le=3600, description="Seconds to receive the body of a request.")
    open_seconds: int = Field(600, ge=1, le=86_400, description="Seconds that a worker process has to open the model.")
    decode_seconds: float = Field(
        30, gt=0, le=3600, description="Seconds to wait in the queue, and to compute a batch; later users get 503."
    )
    grace_seconds: int = Field(20, ge=0, le=3600, description="Seconds for running requests when the server stops.")
    keep_alive_seconds: int = Field(30, ge=1, le=3600, description="Seconds after which an idle connection is closed.")
