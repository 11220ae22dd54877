"""Settings of prediction files and of the online server."""

from typing import Literal

from pydantic import Field

from genrec_core.settings.base import Settings

RankingMode = Literal["generative", "hybrid", "dense"]


class PredictionSettings(Settings):
    """What a prediction file holds."""

    top_k: int = Field(128, ge=1, le=100_000, description="Items recommended to each user.")
    beams: int | None = Field(
        None, ge=1, description="Beams of the search; unset: as many as `top_k` and the user's history need."
    )
    batch_users: int = Field(64, ge=1, le=4096, description="Users searched for in one batch.")
    ranking: RankingMode = Field(
        "hybrid",
        description="Score that orders the items: `generative`, the probability of an item's code; `dense`, the dense "
        "head's score; `hybrid`, a mix of both.",
    )
    exclude_seen: bool = Field(True, description="Do not recommend items of the user's own history.")
    rule: str | None = Field(
        None, description="Rule that every recommended item must meet, for example `brand = OPI`; unset: none."
    )
    workers: int | None = Field(
        None, ge=1, le=1024, description="Batches of users searched at once; unset: one a core."
    )


class ServingSettings(Settings):
    """The online server; each is an option of ``genrec serve``."""

    name: str = Field(
        "mymodel",
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="Name of the model in the server's paths, as in /predictions/mymodel.",
    )
    host: str = Field(
        "127.0.0.1", description="Address that the server listens on; set a token for any but a loopback address."
    )
    port: int = Field(8080, ge=0, le=65535, description="Port that the server listens on; 0 for any free port.")
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Worker processes, each with one thread and the model in its memory; unset: one for each core of "
        "the CPU quota.",
    )
    batch_users: int = Field(16, ge=1, le=4096, description="Most users searched for in one batch.")
    max_wait_ms: float = Field(
        10,
        ge=0,
        le=10_000,
        description="Longest wait, in milliseconds, for users who just got an answer to ask again, so that batches "
        "grow larger.",
    )
    queue: int = Field(
        1024, ge=1, le=1_000_000, description="Most users that wait in the queue; the server answers others with 503."
    )
    max_instances: int = Field(256, ge=1, le=100_000, description="Most users in one request.")
    max_history: int = Field(1000, ge=1, le=1_000_000, description="Most items in a user's history.")
    max_topk: int = Field(1000, ge=1, le=100_000, description="Most items that a user can ask for.")
    max_listed: int = Field(100_000, ge=1, le=10_000_000, description="Most items in an allow list or a deny list.")
    max_body_kb: int = Field(1024, ge=1, le=1_048_576, description="Largest request body, in KiB.")
    body_seconds: int = Field(30, ge=1, le=3600, description="Seconds to receive the body of a request.")
    open_seconds: int = Field(
        600,
        ge=1,
        le=86_400,
        description="Seconds in which a worker process must open the model: at the start, at a reload, and when it "
        "replaces a lost one.",
    )
    decode_seconds: float = Field(
        30,
        gt=0,
        le=3600,
        description="Seconds to wait in the queue, and seconds to compute a batch. Later users get 503; a worker "
        "process that is late with a batch is replaced.",
    )
    grace_seconds: int = Field(
        20, ge=0, le=3600, description="Seconds that running requests may still take when the server stops."
    )
    keep_alive_seconds: int = Field(
        30, ge=1, le=3600, description="Seconds after which the server closes an idle connection."
    )
