"""Settings of the online server."""

from pydantic import Field

from genrec_core.settings.base import Settings


class ServingSettings(Settings):
    """The online server; options of ``genrec serve``."""

    name: str = Field(
        "mymodel", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="The model's name, as in /predictions/mymodel."
    )
    host: str = Field("127.0.0.1", description="Address to listen on; another than loopback should have a token.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 for any free one.")
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Decoding processes of one thread, with the model in each; unset: one a core of the CPU quota.",
    )
    batch_users: int = Field(16, ge=1, le=4096, description="Users decoded together, at most.")
    max_wait_ms: float = Field(
        5,
        ge=0,
        le=10_000,
        description="Wait so long for users who have just been answered to ask again, for a larger batch.",
    )
    queue: int = Field(1024, ge=1, le=1_000_000, description="Users waiting, at most; beyond, the answer is 503.")
    max_instances: int = Field(256, ge=1, le=100_000, description="Users a request.")
    max_history: int = Field(1000, ge=1, le=1_000_000, description="Items a history.")
    max_topk: int = Field(1000, ge=1, le=100_000, description="Items a user.")
    max_listed: int = Field(100_000, ge=1, le=10_000_000, description="Items of an allow or deny list.")
    max_body_kb: int = Field(1024, ge=1, le=1_048_576, description="Size of a request's body in KiB.")
    body_seconds: int = Field(30, ge=1, le=3600, description="Seconds within which a request's body must be there.")
    open_seconds: int = Field(
        600,
        ge=1,
        le=86_400,
        description="Seconds within which a decoding process must have opened the model, at the start, at a reload and "
        "in the place of one that was lost.",
    )
    decode_seconds: float = Field(
        30,
        gt=0,
        le=3600,
        description="Seconds for a batch, after which its users get 503 and its process is replaced; and for the wait "
        "in the queue, after which the answer is 503.",
    )
    grace_seconds: int = Field(20, ge=0, le=3600, description="How long requests in flight may take when it stops.")
    keep_alive_seconds: int = Field(30, ge=1, le=3600, description="How long an idle connection is kept.")
