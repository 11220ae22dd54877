"""Decodes the users of different requests together: a bounded queue before the decoding processes."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from genrec_core.data.lengths import length_class
from genrec_core.serving.decoders import Decoded, DecoderLostError
from genrec_core.serving.metrics import Metrics
from genrec_core.serving.models import ServedModel
from genrec_core.settings import ServingSettings

_CLOSE_SECONDS = 2  # for batches whose clients are answered or gone
_RETRY_SECONDS = 5  # before a process that could not be started is tried again
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


class _Asked:
    """A request, and what its users got so far."""

    def __init__(self, users: int) -> None:
        self.got: list[tuple[Decoded, int] | None] = [None] * users
        self.missing = users
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, number: int, outcome: Decoded | Exception, place: int) -> None:
        """What user ``number`` got in the batch of ``outcome``."""
        if self.answer.done():
            return
        if isinstance(outcome, Exception):
            self.answer.set_exception(outcome)
            return
        self.got[number] = outcome, place
        self.missing -= 1
        if not self.missing:
            self.answer.set_result(None)


@dataclass(slots=True, eq=False)
class Waiting:
    """One user in the queue, ``number`` of a request, since a time of ``time.monotonic``."""

    task: Task
    history: list[int]
    since: float
    asked: _Asked
    number: int

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
    lone client never waits. Who is still in the queue after ``decode_seconds`` is told that nobody decodes.

    Args:
        settings: queue, batch size and waiting.
        processes: decoding processes of every model.
        metrics: told the depth of the queue and the size of each batch.
        replaced: called in a thread when a process of a model has taken another's place, before it gets a batch.
    """

    def __init__(
        self,
        settings: ServingSettings,
        processes: int,
        metrics: Metrics,
        replaced: Callable[[ServedModel], None] = lambda model: None,
    ) -> None:
        self.settings, self.metrics, self.processes, self.replaced = settings, metrics, processes, replaced
        self.queue: deque[Waiting] = deque()
        self.answered: deque[tuple[float, int]] = deque()  # when, and how many of them have not asked again
        self.free, self.decoding, self.closed = list(range(processes)), 0, False
        self.running: set[asyncio.Task[None]] = set()
        self.timer: asyncio.TimerHandle | None = None
        metrics.queue.set_function(lambda: len(self.queue))

    async def decode(self, task: Task, histories: list[list[int]]) -> list[tuple[Decoded, int]]:
        """What the batch of each user got, and the user's place in it.

        Raises:
            QueueFullError: they do not fit the queue, or it is closed.
            UnservableError, DecoderFailedError: see :class:`genrec_core.serving.decoders.Decoder`.
            DecoderLostError: see there; or one of them waited in the queue for too long.
        """
        if self.closed or len(self.queue) + len(histories) > self.settings.queue:
            raise QueueFullError
        asked, now = _Asked(len(histories)), time.monotonic()
        self.queue.extend(Waiting(task, history, now, asked, number) for number, history in enumerate(histories))
        self._came_back(len(histories))
        self._dispatch()
        late = asyncio.get_running_loop().call_later(self.settings.decode_seconds, self._give_up, now)
        try:
            await asked.answer
        finally:
            late.cancel()
            asked.answer.cancel()  # a client that went away: those of its users who still wait are not decoded
        return [got for got in asked.got if got]

    async def close(self) -> None:
        """Wait a little for the batches that are being decoded; who still waits in the queue is not served."""
        self.closed = True
        self.queue.clear()
        if self.running:
            _, late = await asyncio.wait(self.running, timeout=_CLOSE_SECONDS)
            for batch in late:
                batch.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _dispatch(self) -> None:
        """Give the free processes what they can decode now; look again when those who are waited for should be here."""
        if self.timer:
            self.timer.cancel()
            self.timer = None
        while self.free and self.queue:
            while self.queue and self.queue[0].asked.answer.done():
                self.queue.popleft()
            if wait := self._wait(time.monotonic()) if self.queue else 0:
                whole_ms = math.ceil(wait * 1000) / 1000  # uvloop's timers would end the last one early
                self.timer = asyncio.get_running_loop().call_later(whole_ms, self._dispatch)
                break
            if batch := self._batch():
                self.decoding += len(batch)
                running = asyncio.get_running_loop().create_task(self._decode(self.free.pop(), batch))
                self.running.add(running)
                running.add_done_callback(self.running.discard)

    async def _decode(self, process: int, batch: list[Waiting]) -> None:
        """Decode a batch in one of the processes, which then gets the next one before the users get their answers."""
        task = batch[0].task
        self.metrics.batch.observe(len(batch))
        task.model.acquire()  # also where every client goes away meanwhile
        try:
            outcome = await self._outcome(process, batch)
            if isinstance(outcome, DecoderLostError):
                self._tell(batch, outcome)  # now: another process takes a while to open the model
                while not await task.model.decoders[process].replace() and not task.model.retired:
                    await asyncio.sleep(_RETRY_SECONDS)
                await asyncio.to_thread(self.replaced, task.model)
        finally:
            task.model.release()
        self.free.append(process)
        self.decoding -= len(batch)
        self.answered.append((time.monotonic(), len(batch)))
        self._dispatch()
        self._tell(batch, outcome)

    async def _outcome(self, process: int, batch: list[Waiting]) -> Decoded | Exception:
        task = batch[0].task
        try:
            async with asyncio.timeout(self.settings.decode_seconds):
                decoded = await task.model.decoders[process].decode(task.options, [user.history for user in batch])
            self.metrics.users.inc(len(batch))
            return decoded
        except TimeoutError:
            return DecoderLostError(f"a batch was not decoded after {self.settings.decode_seconds:g} s")
        except Exception as error:  # whatever it is, those who asked are told, and the process gets the next batch
            return error

    def _give_up(self, since: float) -> None:
        """Tell those who have been in the queue since then, or longer, that nobody decodes."""
        error = DecoderLostError(f"no decoding process was free within {self.settings.decode_seconds:g} s")
        while self.queue and self.queue[0].since <= since:
            user = self.queue.popleft()
            user.asked.take(user.number, error, 0)

    def _tell(self, batch: list[Waiting], outcome: Decoded | Exception) -> None:
        for place, user in enumerate(batch):
            user.asked.take(user.number, outcome, place)

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
            if not user.asked.answer.done():
                groups.setdefault((user.task, user.length), []).append(user)
        oldest, late = next(iter(groups.values()), []), time.monotonic() - _LATE_SECONDS
        batch = oldest if oldest and oldest[0].since < late else max(groups.values(), key=len, default=[])
        del batch[self._share() :]
        taken = set(batch)
        self.queue = deque(user for user in self.queue if user not in taken and not user.asked.answer.done())
        return batch
