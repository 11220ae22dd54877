"""Decodes the users of different requests together, in a bounded queue and a few threads."""

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from genrec_core.errors import GenrecError
from genrec_core.inference.onnx_scorer import default_threads
from genrec_core.inference.recommender import Ranking
from genrec_core.serving.metrics import Metrics
from genrec_core.serving.models import ServedModel
from genrec_core.settings import RankingMode, ServingSettings


@dataclass(frozen=True)
class Task:
    """What users must share to be decoded together."""

    topk: int
    ranking: RankingMode
    exclude_seen: bool


@dataclass(frozen=True)
class Waiting:
    """One user in the queue; the mask belongs to the model that made it, so the two travel together."""

    task: Task
    model: ServedModel
    history: list[int]
    mask: np.ndarray | None
    since: float
    answer: "asyncio.Future[tuple[Ranking, int]]"


class QueueFullError(Exception):
    """The queue has no room for the users of a request."""


class Batcher:
    """Takes users one by one and decodes whoever waits as soon as a thread is free.

    A batch holds users of one task and model. While threads are busy the queue fills, so batches grow with the load; an
    idle server decodes at once, or after ``max_wait_ms`` where that is set.

    Args:
        settings: queue, batch size, waiting and threads.
        metrics: told the depth of the queue and the size of each batch.
    """

    def __init__(self, settings: ServingSettings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self.queue: deque[Waiting] = deque()
        self.free = settings.threads or default_threads()
        self.pool = ThreadPoolExecutor(self.free, thread_name_prefix="decode")
        self.timer: asyncio.TimerHandle | None = None

    async def rank(
        self, task: Task, model: ServedModel, histories: list[list[int]], mask: np.ndarray | None
    ) -> list[tuple[Ranking, int]]:
        """The ranking of each user, and the user's place in it.

        Raises:
            QueueFullError: they do not fit the queue.
            GenrecError: the model cannot rank them.
        """
        if len(self.queue) + len(histories) > self.settings.queue:
            raise QueueFullError
        loop = asyncio.get_running_loop()
        users = [Waiting(task, model, history, mask, loop.time(), loop.create_future()) for history in histories]
        self.queue.extend(users)
        self._dispatch()
        try:
            return list(await asyncio.gather(*(user.answer for user in users)))
        finally:
            for user in users:  # a client that went away, or one of the users failed: the others are not decoded
                user.answer.cancel()

    def close(self) -> None:
        """Wait for the batches in the threads."""
        self.pool.shutdown(wait=True, cancel_futures=True)

    def _dispatch(self) -> None:
        """Give batches to free threads."""
        while self.free and (batch := self._batch()):
            self.free -= 1
            self.metrics.batch.observe(len(batch))
            work = asyncio.get_running_loop().run_in_executor(self.pool, partial(_decode, batch, self.settings))
            work.add_done_callback(partial(self._finish, batch))
        self.metrics.queue.set(len(self.queue))

    def _batch(self) -> list[Waiting]:
        """The longest waiting user and those behind who can be decoded together; none while it pays to wait."""
        while self.queue and self.queue[0].answer.done():
            self.queue.popleft()
        if not self.queue or self._too_early():
            return []
        first, batch, others = self.queue[0], list[Waiting](), list[Waiting]()
        while self.queue and len(batch) < self.settings.batch_users:
            user = self.queue.popleft()
            if user.answer.done():
                continue
            together = user.task == first.task and user.model is first.model
            (batch if together else others).append(user)
        self.queue.extendleft(reversed(others))
        return batch

    def _too_early(self) -> bool:
        """Whether to wait for more users, with a timer set for when the wait is over."""
        loop = asyncio.get_running_loop()
        left = self.queue[0].since + self.settings.max_wait_ms / 1000 - loop.time()
        if left <= 0 or len(self.queue) >= self.settings.batch_users:
            return False
        if self.timer is None or self.timer.when() <= loop.time():
            self.timer = loop.call_later(left, self._dispatch)
        return True

    def _finish(self, batch: list[Waiting], work: "asyncio.Future[Ranking]") -> None:
        """Answer the users of a batch, and begin the next."""
        self.free += 1
        for place, user in enumerate(batch):
            if user.answer.done():
                continue
            if work.cancelled():
                user.answer.cancel()
            elif (error := work.exception()) is not None:
                user.answer.set_exception(error)
            else:
                user.answer.set_result((work.result(), place))
        self.metrics.users.inc(len(batch))
        self._dispatch()


def _decode(batch: list[Waiting], settings: ServingSettings) -> Ranking:
    task, model = batch[0].task, batch[0].model
    items = len(model.recommender.item_ids)
    masks = [user.mask for user in batch]
    if any(mask is not None and not mask.any() for mask in masks):
        raise GenrecError("no item is left")
    return model.recommender.rank(
        [user.history for user in batch],
        min(task.topk, items),
        exclude_seen=task.exclude_seen,
        ranking=task.ranking,
        allowed=masks,
        batch_users=settings.batch_users,
    )
