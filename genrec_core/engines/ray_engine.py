"""Shards as tasks of a Ray cluster: one core each, tried again where a worker or a node dies. Needs the extra ``ray``.

Everything that a task needs and gives goes through Ray's object store, so that nodes need no storage in common, only
the same code. Ray sends functions by their names and values as pickles of its own, which never reach a file of ours;
whoever can talk to a cluster can run code on it, hence the token.
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
from typing import Any

from genrec_core.engines.engine import Common, Result, Shard
from genrec_core.errors import GenrecError

_SHARDS_A_CORE = 3  # computed or waiting to be; more would only fill the object store
_ANSWER_SECONDS = 10
_RETRIES = 5  # of a shard whose worker died


class RayEngine:
    """Computes shards on the cluster that this process is connected to; see :func:`connected`."""

    def __init__(self) -> None:
        import ray

        cores = int(ray.cluster_resources().get("CPU", 0))
        if not cores:
            raise GenrecError("the Ray cluster has no CPU for tasks; start a node with --num-cpus 1 or more")
        self.cores = cores

    def map(
        self, function: Callable[[Common, Shard], Result], common: Common, shards: Iterable[Shard]
    ) -> Iterator[Result]:
        """See :meth:`genrec_core.engines.engine.Engine.map`.

        Raises:
            GenrecError: ``function`` raised it, a node has other code than this process, or a shard's workers died
                again and again.
        """
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


def _computed(sent: tuple[str, Any], function: Callable[[Any, Any], Any], shard: Any) -> Any:
    """What runs on a worker."""
    digest, common = sent
    if digest != code_digest():
        node = socket.gethostname()
        raise GenrecError(f"{node} runs other code of genrec than the process that asks; install the same on all nodes")
    return function(common, shard)


def _result(task: Any) -> Any:
    """The result of a task, or what it raised.

    Raises:
        GenrecError: the task did, or it could not be run.
    """
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


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Hold a connection to the cluster at ``address``.

    Args:
        address: ``HOST:PORT`` of a cluster of which this machine is a node, ``ray://HOST:PORT`` of another one, or
            ``local`` to start Ray on this machine for the time being.

    Raises:
        GenrecError: there is no address, no Ray, no cluster, or the token is missing or wrong.
    """
    connection = connect(address)
    try:
        yield
    finally:
        connection.disconnect()


def connect(address: str | None) -> Any:
    """Connect this process; see :func:`connected`. Returns what Ray gives, for its ``disconnect``."""
    if not address:
        raise GenrecError(
            "GENREC_ENGINE=ray needs a cluster: set RAY_ADDRESS to its HOST:PORT, or to `local` for one on this machine"
        )
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # read when Ray is imported; without it, anyone may run code there
    try:
        import ray
    except ModuleNotFoundError as error:
        raise GenrecError("ray is not installed; run pip install 'genrec[ray]'") from error
    _require_listener(address)
    with _kept_signals():
        try:
            return ray.init(address=address, log_to_driver=False, logging_level="warning")
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise GenrecError(
                f"RAY_ADDRESS={address}: no connection ({reason}); check that the cluster runs, and that "
                "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH is what its nodes were started with"
            ) from error


def _require_listener(address: str) -> None:
    """Refuse an address where nobody listens: Ray itself would try for minutes.

    Raises:
        GenrecError: nobody does, or it is none.
    """
    if address in ("local", "auto"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise GenrecError(f"RAY_ADDRESS={address}: nobody listens there ({error}); start the cluster first") from error


@contextmanager
def _kept_signals() -> Iterator[None]:
    """Keep what SIGTERM does: Ray takes it over when it connects, and who stops this process expects our own answer."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@cache
def code_digest() -> str:
    """A hash of this package's code."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
