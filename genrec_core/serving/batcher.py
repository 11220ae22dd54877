"""Decodes the users of different requests together: a bounded queue in front of the decoding processes."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from genrec_core.data.ids import AnyId
from genrec_core.data.lengths import length_class
from genrec_core.serving.decoders import CORES, Answer, DecoderLostError, keep_to
from genrec_core.serving.metrics import Metrics
from genrec_core.serving.models import ServedModel
from genrec_core.serving.request_body import RETRY, RefusedError
from genrec_core.settings import ServingSettings

LOG = logging.getLogger("genrec.serving")
_CLOSE_SECONDS = 2  # for batches that are being decoded when the server stops
_RETRY_SECONDS = 5  # between two tries to start a process


@dataclass(frozen=True)
class Task:
    """What users must share to be decoded together."""

    options: str  # all of a request except its users, as JSON
    model: ServedModel
    lookup: bool = field(default=False, compare=False)  # the options say so too: no user gets a list


@dataclass(slots=True, eq=False)
class _User:
    """One user in the queue, since a time of ``time.monotonic``."""

    task: Task
    history: list[AnyId]
    since: float
    answer: asyncio.Future[Answer]

    @property
    def group(self) -> tuple[Task, int]:
        """Users of one group can be decoded together: they have the same task and histories of similar length."""
        return self.task, length_class(len(self.history), self.task.model.max_history)


class Batcher:
    """Puts users into a queue, and decodes a batch of them as soon as a decoding process is free.

    While all processes are busy the queue grows, so batches grow with the load, and the processes share them evenly.
    Clients often ask again as soon as they have their answers. So the first of them waits up to ``max_wait_ms`` for the
    others of the last batch, because a larger batch costs less for each user. A lone client never waits. A user who is
    still in the queue after ``decode_seconds`` gets an error.

    Args:
        processes: number of decoding processes of each model.
        replaced: called in a thread when a process has replaced a lost one, before it gets a batch.
    """

    def __init__(
        self,
        settings: ServingSettings,
        processes: int,
        metrics: Metrics,
        replaced: Callable[[ServedModel], None] = lambda model: None,
    ) -> None:
        self.settings, self.metrics, self.processes, self.replaced = settings, metrics, processes, replaced
        self.queue: deque[_User] = deque()
        self.expected: deque[tuple[float, int]] = deque()  # when users got answers, and how many may ask again
        self.free, self.decoding, self.closed = list(range(processes)), 0, False
        self.running: set[asyncio.Task[None]] = set()
        self.timer: asyncio.TimerHandle | None = None
        metrics.queue.set_function(lambda: len(self.queue))

    async def decode(self, task: Task, histories: list[list[AnyId]]) -> list[Answer]:
        """Rank for the users of a request; errors as of :meth:`~genrec_core.serving.decoders.Decoder.decode`.

        It is a RefusedError too if the queue is full or closed, and a DecoderLostError if a user waited for too long.
        """
        if self.closed or len(self.queue) + len(histories) > self.settings.queue:
            raise RefusedError(503, "queue_full", "the queue is full; try again later", headers=RETRY)
        loop, now = asyncio.get_running_loop(), time.monotonic()
        users = [_User(task, history, now, loop.create_future()) for history in histories]
        self.queue.extend(users)
        self._expect_fewer(len(users))
        self._dispatch()
        late = loop.call_later(self.settings.decode_seconds, self._give_up, now)
        try:
            return [await user.answer for user in users]
        except BaseException:  # a user failed, or the client went away: do not decode the others
            for user in users:
                user.answer.cancel()
            self.queue = deque(user for user in self.queue if not user.answer.done())
            raise
        finally:
            late.cancel()

    async def close(self) -> None:
        """Empty the queue, and wait a little for the batches that are being decoded."""
        self.closed = True
        self.queue.clear()
        if self.running:
            _, late = await asyncio.wait(self.running, timeout=_CLOSE_SECONDS)
            for batch in late:
                batch.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        keep_to(CORES)

    def _dispatch(self) -> None:
        """Give batches to the free processes, now or after the time for which more users are expected."""
        if self.timer:
            self.timer.cancel()
            self.timer = None
        loop = asyncio.get_running_loop()
        while self.free and self.queue:
            if seconds := self._wait_seconds(time.monotonic()):
                self.timer = loop.call_later(seconds, self._dispatch)
                break
            batch = self._next_batch()
            self.decoding += len(batch)
            running = loop.create_task(self._decode(self.free.pop(), batch))
            self.running.add(running)
            running.add_done_callback(self.running.discard)
        if len(CORES) == self.processes:
            keep_to({CORES[process] for process in self.free} or CORES)

    async def _decode(self, process: int, batch: list[_User]) -> None:
        """Decode a batch. The process gets its next batch before the users of this one get their answers."""
        model = batch[0].task.model
        self.metrics.batch.observe(len(batch))
        model.acquire()  # the requests do so too, but their clients may go away
        try:
            answers = await self._answers(process, batch)
            if isinstance(answers, DecoderLostError):
                LOG.error("a batch was lost: %s", answers)
                _answer_users(batch, answers)  # at once: another process takes a while to open the model
                while not await model.decoders[process].replace() and not model.retired:
                    await asyncio.sleep(_RETRY_SECONDS)
                await asyncio.to_thread(self.replaced, model)
        finally:
            model.release()
        self.free.append(process)
        self.decoding -= len(batch)
        self.expected.append((time.monotonic(), len(batch)))
        self._dispatch()
        _answer_users(batch, answers)

    async def _answers(self, process: int, batch: list[_User]) -> list[Answer] | Exception:
        task, seconds = batch[0].task, self.settings.decode_seconds
        try:
            async with asyncio.timeout(seconds):
                answers = await task.model.decoders[process].decode(task.options, [user.history for user in batch])
        except TimeoutError:
            return DecoderLostError(f"a batch was not decoded after {seconds:g} s")
        except Exception as error:  # of any kind: the users get it, and the process gets the next batch
            return error
        (self.metrics.lookups if task.lookup else self.metrics.users).inc(len(batch))
        return answers

    def _give_up(self, since: float) -> None:
        """Send an error to the users who have been in the queue since then, or longer."""
        late = [user for user in self.queue if user.since <= since]
        self.queue = deque(user for user in self.queue if user.since > since)
        _answer_users(late, DecoderLostError(f"no decoding process was free within {self.settings.decode_seconds:g} s"))

    def _wait_seconds(self, now: float) -> float:
        """How long to wait for users who just got answers."""
        patience = self.settings.max_wait_ms / 1000
        while self.expected and self.expected[0][0] + patience <= now:
            self.expected.popleft()
        if not self.expected or len(self.queue) >= self._share():
            return 0
        return max(0.0, min(self.queue[0].since, self.expected[-1][0]) + patience - now)

    def _share(self) -> int:
        """Users of a batch when the processes share evenly all users who are here or expected."""
        users = len(self.queue) + self.decoding + sum(count for _, count in self.expected)
        return min(self.settings.batch_users, math.ceil(users / self.processes))

    def _expect_fewer(self, users: int) -> None:
        """So many users asked; take them from those who are expected, the earliest first."""
        while users and self.expected:
            since, count = self.expected.popleft()
            if count > users:
                self.expected.appendleft((since, count - users))
            users -= min(count, users)

    def _next_batch(self) -> list[_User]:
        """Take the user who has waited longest, and those who can be decoded together with that one."""
        group = self.queue[0].group
        batch = [user for user in self.queue if user.group == group][: self._share()]
        taken = set(batch)
        self.queue = deque(user for user in self.queue if user not in taken)
        return batch


def _answer_users(batch: list[_User], answers: list[Answer] | Exception) -> None:
    for place, user in enumerate(batch):
        if user.answer.done():
            continue
        if isinstance(answers, Exception):
            user.answer.set_exception(answers)
        else:
            user.answer.set_result(answers[place])
