"""Decodes the users of different requests together: a bounded queue, and a thread for each decoding process."""

import asyncio
import math
import time
from collections import deque
from dataclasses import dataclass
from threading import Condition, Thread

from genrec_core.data.lengths import length_class
from genrec_core.serving.decoders import Decoded
from genrec_core.serving.metrics import Metrics
from genrec_core.serving.models import ServedModel
from genrec_core.settings import ServingSettings

_LATE_SECONDS = 0.05  # in the queue: whoever waited so long is decoded next, with however few others


@dataclass(frozen=True)
class Task:
    """What users must share to be decoded together.

    Args:
        options: all of a request but its users, as JSON.
        model: the model that ranks.
    """

    options: str
    model: ServedModel


@dataclass(frozen=True, eq=False)
class Waiting:
    """One user in the queue, since a time of ``time.monotonic``."""

    task: Task
    history: list[int]
    since: float
    answer: "asyncio.Future[tuple[Decoded, int]]"

    @property
    def length(self) -> int:
        """The class of the history's length: others are not decoded in one go."""
        return length_class(len(self.history), self.task.model.max_history)


class QueueFullError(Exception):
    """The queue has no room for the users of a request."""


class Batcher:
    """Takes users one by one and decodes whoever waits as soon as a decoding process is free.

    A batch holds users of one task whose histories are of like length. While all processes are busy the queue fills, so
    batches grow with the load, and the processes share it evenly. Clients ask again as soon as they have their answer:
    who comes first may wait ``max_wait_ms`` for the others of the batch before, which are decoded cheaper together; a
    lone client never waits. The threads take their batches themselves, without a detour over the event loop.

    Args:
        settings: queue, batch size and waiting.
        processes: decoding processes of every model.
        metrics: told the depth of the queue and the size of each batch.
    """

    def __init__(self, settings: ServingSettings, processes: int, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self.queue: deque[Waiting] = deque()
        self.answered: deque[tuple[float, int]] = deque()  # when, and how many of them have not asked again
        self.decoding, self.closed, self.changed = 0, False, Condition()
        self.processes = processes
        self.threads = [Thread(target=self._work, args=(number,), daemon=True) for number in range(processes)]
        for thread in self.threads:
            thread.start()

    async def decode(self, task: Task, histories: list[list[int]]) -> list[tuple[Decoded, int]]:
        """What the batch of each user got, and the user's place in it.

        Raises:
            QueueFullError: they do not fit the queue, or it is closed.
            UnservableError, DecoderFailedError, DecoderLostError: see :class:`genrec_core.serving.decoders.Decoder`.
        """
        loop, now = asyncio.get_running_loop(), time.monotonic()
        users = [Waiting(task, history, now, loop.create_future()) for history in histories]
        with self.changed:
            if self.closed or len(self.queue) + len(users) > self.settings.queue:
                raise QueueFullError
            idle = not self.queue
            self.queue.extend(users)
            self._came_back(len(users))
            self.metrics.queue.set(len(self.queue))
            if idle or not self._wait(now):
                self.changed.notify()
        try:
            return list(await asyncio.gather(*(user.answer for user in users)))
        finally:
            for user in users:  # a client that went away, or one of the users failed: the others are not decoded
                user.answer.cancel()

    def close(self) -> None:
        """Wait for the batches that are being decoded; who still waits in the queue is not served."""
        with self.changed:
            self.closed = True
            self.queue.clear()
            self.changed.notify_all()
        for thread in self.threads:
            thread.join()

    def _work(self, number: int) -> None:
        """Decode batch after batch in one of the processes."""
        while batch := self._next():
            task = batch[0].task
            self.metrics.batch.observe(len(batch))
            outcome: Decoded | Exception
            try:
                outcome = task.model.decoders[number].decode(task.options, [user.history for user in batch])
                self.metrics.users.inc(len(batch))
            except Exception as error:  # whatever it is, those who asked are told, and the thread goes on
                outcome = error
            with self.changed:
                self.decoding -= len(batch)
                self.answered.append((time.monotonic(), len(batch)))
            batch[0].answer.get_loop().call_soon_threadsafe(_answer, batch, outcome)

    def _next(self) -> list[Waiting]:
        """The next batch, when there is one; empty at the end."""
        with self.changed:
            while not self.closed:
                while self.queue and self.queue[0].answer.done():
                    self.queue.popleft()
                wait = self._wait(time.monotonic()) if self.queue else None
                if wait == 0:
                    if batch := self._batch():
                        self.decoding += len(batch)
                        if self.queue:
                            self.changed.notify()  # another process may be idle
                        return batch
                    continue
                self.changed.wait(wait)
            return []

    def _wait(self, now: float) -> float:
        """Seconds for which users who were just answered should be waited for."""
        patience = self.settings.max_wait_ms / 1000
        while self.answered and self.answered[0][0] + patience <= now:
            self.answered.popleft()
        if not self.answered or len(self.queue) >= self._share():
            return 0
        return max(0.0, min(self.queue[0].since, self.answered[-1][0]) + patience - now)

    def _share(self) -> int:
        """Users of a batch, so that every process gets as many of those that are here or expected."""
        users = len(self.queue) + self.decoding + sum(count for _, count in self.answered)
        return min(self.settings.batch_users, math.ceil(users / self.processes))

    def _came_back(self, users: int) -> None:
        """Expect so many fewer of those who were answered, the earliest first."""
        while users and self.answered:
            since, count = self.answered.popleft()
            if count > users:
                self.answered.appendleft((since, count - users))
            users -= min(count, users)

    def _batch(self) -> list[Waiting]:
        """The most users who can be decoded together, or those like the one who has waited longest, and too long."""
        groups: dict[tuple[Task, int], list[Waiting]] = {}
        for user in self.queue:
            if not user.answer.done():
                groups.setdefault((user.task, user.length), []).append(user)
        oldest, late = next(iter(groups.values()), []), time.monotonic() - _LATE_SECONDS
        batch = oldest if oldest and oldest[0].since < late else max(groups.values(), key=len, default=[])
        del batch[self._share() :]
        taken = set(batch)
        self.queue = deque(user for user in self.queue if user not in taken and not user.answer.done())
        self.metrics.queue.set(len(self.queue))
        return batch


def _answer(batch: list[Waiting], outcome: Decoded | Exception) -> None:
    """Give each user of a batch the outcome; runs in the event loop."""
    for place, user in enumerate(batch):
        if user.answer.done():
            continue
        if isinstance(outcome, Exception):
            user.answer.set_exception(outcome)
        else:
            user.answer.set_result((outcome, place))
