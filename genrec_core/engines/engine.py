"""Where the shards of a large piece of work are computed: in this process, or by the workers of a Ray cluster.

Shards and the order of their results are the same everywhere, so both engines give the same results. Inputs and
results go through Ray's object store: nodes need the same code, but no shared storage. Ray pickles values between
processes; no pickle reaches a file of ours. Who can connect to a cluster can run code on it, so a token is needed.
"""

import hashlib
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from genrec_core.errors import GenrecError
from genrec_core.settings import EngineSettings

Common = TypeVar("Common")
Shard = TypeVar("Shard")
Result = TypeVar("Result")

_PACKAGE = Path(__file__).parents[1]  # genrec_core
_SHARDS_A_CORE = 3  # computed or waiting; more would only fill the object store
_ANSWER_SECONDS = 10
_RETRIES = 5  # of a shard whose worker died


class Engine:
    """Computes one shard after the other in this process."""

    def map(
        self, function: Callable[[Common, Shard], Result], common: Common, shards: Iterable[Shard]
    ) -> Iterator[Result]:
        """``function(common, shard)`` of each shard, in the order of the shards.

        Args:
            function: a function of a module; a worker finds it by its name. It is called again for a shard whose
                worker died.
            common: an argument that is the same for all shards; it is sent once.
            shards: read a few ahead of the computation, never all at once.
        """
        return (function(common, shard) for shard in shards)


class RayEngine(Engine):
    """Computes shards as tasks of one core each on the cluster that this process is connected to."""

    def __init__(self) -> None:
        import ray

        self.cores = int(ray.cluster_resources().get("CPU", 0))
        if not self.cores:
            raise GenrecError("the Ray cluster has no CPU for tasks; start a node with --num-cpus 1 or more")

    def map(
        self, function: Callable[[Common, Shard], Result], common: Common, shards: Iterable[Shard]
    ) -> Iterator[Result]:
        """See :meth:`Engine.map`; an error too if a node has other code, or a shard's workers die at each attempt."""
        import ray

        task = ray.remote(_computed).options(num_cpus=1, max_retries=_RETRIES)
        sent = ray.put((code_digest(), common))
        waiting: deque[Any] = deque()
        try:
            for shard in shards:
                waiting.append(task.remote(sent, function, shard))
                if len(waiting) >= _SHARDS_A_CORE * self.cores:
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        finally:
            for left in waiting:
                ray.cancel(left, force=False)


@contextmanager
def open_engine(settings: EngineSettings) -> Iterator[Engine | None]:
    """The engine that the settings name; None for this process."""
    if settings.name == "local":
        yield None
        return
    connection = connect(settings.address)
    try:
        yield RayEngine()
    finally:
        connection.disconnect()


def _computed(sent: tuple[str, Any], function: Callable[[Any, Any], Any], shard: Any) -> Any:
    """What runs on a worker."""
    digest, common = sent
    if digest != code_digest():
        node = socket.gethostname()
        raise GenrecError(f"{node} runs other code of genrec than this process; install the same version on all nodes")
    return function(common, shard)


def _result(task: Any) -> Any:
    """The result of a task; raises the task's error, or GenrecError if Ray could not run it."""
    import ray

    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, GenrecError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        reason = str(error).strip().partition("\n")[0]
        raise GenrecError(f"Ray could not compute a shard in {_RETRIES + 1} attempts: {reason}") from error


def connect(address: str | None) -> Any:
    """Connect this process to a cluster by its ``RAY_ADDRESS``; the result's ``disconnect`` ends the connection."""
    if not address:
        raise GenrecError(
            "GENREC_ENGINE=ray needs a cluster: set RAY_ADDRESS to its HOST:PORT, or `local` for this machine"
        )
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # read when Ray is imported; without it, anyone can run code there
    try:
        import ray
    except ModuleNotFoundError as error:
        raise GenrecError("ray is not installed; run pip install 'genrec[ray]'") from error
    _require_listener(address)
    before = signal.getsignal(signal.SIGTERM)  # Ray replaces it
    try:
        return ray.init(address=address, log_to_driver=False, logging_level="warning")
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = str(error).strip().partition("\n")[0]
        remedy = "check that the cluster runs, and that RAY_AUTH_TOKEN (or _PATH) is what its nodes were started with"
        raise GenrecError(f"RAY_ADDRESS={address}: no connection ({reason}); {remedy}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _require_listener(address: str) -> None:
    """Raise if nothing listens at the address; Ray itself would try for minutes."""
    if address in ("local", "auto"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise GenrecError(f"RAY_ADDRESS={address}: nobody listens there ({error}); start the cluster first") from error


@cache
def code_digest() -> str:
    """A hash of all code of ``genrec_core``."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
