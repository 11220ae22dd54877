"""Who is decoded together, by a batcher over decoders that only note what they are given."""

import asyncio
import gc
import os
import time
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from genrec_core.serving.batcher import Batcher, Task
from genrec_core.serving.decoders import CORES, Answer, DecoderLostError
from genrec_core.serving.metrics import Metrics
from genrec_core.serving.models import ServedModel
from genrec_core.settings import ServingSettings


class NotingModel:
    """Decoders that note the size of each batch, and hold the first ones back until they are let go."""

    max_history, failures, retired = 200, 0, False

    def __init__(self, processes: int) -> None:
        self.sizes: list[int] = []
        self.free, self.kept, self.replaced = asyncio.Event(), 0, 0
        self.replacing = asyncio.Event()
        self.replacing.set()
        self.decoders = [self] * processes

    def acquire(self) -> None:
        self.kept += 1

    def release(self) -> None:
        self.kept -= 1

    async def replace(self) -> bool:
        self.replaced += 1
        await self.replacing.wait()
        return self.replaced > self.failures

    async def decode(self, options: str, histories: list[list[int]]) -> list[Answer]:
        assert self.kept
        self.sizes.append(len(histories))
        await self.free.wait()
        if options == "fail":
            raise DecoderLostError("gone")
        return [Answer([history[0]], 0, False, []) for history in histories]


def sizes(processes: int, clients: Callable[[Callable[..., Awaitable[None]]], Awaitable[None]], **settings: object):
    """The sizes of the batches when ``clients`` ask, each for some users; and the seconds it took."""
    model = NotingModel(processes)
    batcher = Batcher(ServingSettings.model_validate(settings), processes, Metrics())

    async def ask(users: int, length: int = 3) -> None:
        await batcher.decode(Task("{}", cast(ServedModel, model)), [[1] * length] * users)

    async def run() -> None:
        asyncio.get_running_loop().call_later(0.1, model.free.set)
        await clients(ask)
        await batcher.close()

    began = time.monotonic()
    asyncio.run(run())
    assert model.kept == 0
    return model.sizes, time.monotonic() - began


def test_users_who_were_answered_together_are_decoded_together_when_they_ask_again():
    async def clients(ask):
        async def client(pause: float) -> None:
            await ask(1)
            await asyncio.sleep(pause)
            await ask(1)

        first = asyncio.create_task(ask(1))  # keeps the process busy until the others have queued up
        await asyncio.sleep(0.01)
        await asyncio.gather(first, *(client(number / 100) for number in range(4)))

    found, _ = sizes(1, clients, max_wait_ms=500)
    assert found == [1, 4, 4]


def test_nobody_waits_longer_than_the_setting_says():
    async def clients(ask):
        await ask(8)
        await ask(1)  # seven are missing

    found, seconds = sizes(1, clients, max_wait_ms=300)
    assert found == [8, 1]
    assert 0.3 < seconds < 2


def test_a_lone_client_never_waits():
    async def clients(ask):
        for _ in range(5):
            await ask(1)

    found, seconds = sizes(1, clients, max_wait_ms=10_000)
    assert found == [1] * 5
    assert seconds < 5


def test_the_event_loop_keeps_to_the_cores_whose_processes_are_free(monkeypatch: pytest.MonkeyPatch):
    kept: list[set[int]] = []
    monkeypatch.setattr("genrec_core.serving.batcher.CORES", [5, 7])
    monkeypatch.setattr("genrec_core.serving.batcher.keep_to", lambda cores: kept.append(set(cores)))

    async def clients(ask):
        await asyncio.gather(ask(1), ask(1))

    assert sizes(2, clients)[0] == [1, 1]
    assert kept[:2] == [{5}, {5, 7}]  # one process is busy; then both are, and no core is better than another
    assert kept[-1] == {5, 7}


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_a_server_that_closes_in_the_middle_of_a_batch_leaves_its_thread_all_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("genrec_core.serving.batcher._CLOSE_SECONDS", 0.05)

    async def run() -> None:
        model = NotingModel(len(CORES))
        batcher = Batcher(ServingSettings(), len(CORES), Metrics())
        asking = asyncio.create_task(batcher.decode(Task("{}", cast(ServedModel, model)), [[1]]))
        await asyncio.sleep(0.05)
        assert os.sched_getaffinity(0) < set(CORES)
        await batcher.close()
        asking.cancel()

    asyncio.run(run())
    assert os.sched_getaffinity(0) == set(CORES)


def test_the_processes_share_who_is_there():
    async def clients(ask):
        await ask(8)

    found, _ = sizes(2, clients)
    assert found == [4, 4]


def test_the_user_who_has_waited_longest_goes_first_with_those_of_like_length():
    async def clients(ask):
        first = asyncio.create_task(ask(1))  # keeps the process busy
        await asyncio.sleep(0.01)
        await asyncio.gather(first, ask(1), ask(1, length=150), ask(2), ask(1, length=160))

    assert sizes(1, clients, max_wait_ms=0)[0] == [1, 3, 2]


def test_each_user_gets_what_is_theirs_though_the_request_is_cut_into_batches():
    async def run() -> list[list[int]]:
        model = NotingModel(1)
        model.free.set()
        batcher = Batcher(ServingSettings.model_validate({"batch_users": 2}), 1, Metrics())
        task = Task("{}", cast(ServedModel, model))
        found = await batcher.decode(task, [[user] * (1 + user % 2 * 149) for user in range(7)])
        return [answer.items for answer in found]

    assert asyncio.run(run()) == [[user] for user in range(7)]


def test_a_client_that_goes_away_leaves_the_queue_and_the_others_are_served():
    async def run() -> tuple[list[int], int]:
        model = NotingModel(1)
        batcher, task = Batcher(ServingSettings(), 1, Metrics()), Task("{}", cast(ServedModel, model))
        asked = [asyncio.create_task(batcher.decode(task, [[1]] * users)) for users in (1, 2, 3)]
        await asyncio.sleep(0.01)
        asked[0].cancel()  # it is being decoded
        asked[1].cancel()
        await asyncio.sleep(0.01)
        assert model.kept == 1
        model.free.set()
        found = await asked[2]
        await batcher.close()
        return model.sizes, len(found)

    assert asyncio.run(run()) == ([1, 3], 3)


def test_a_batch_that_takes_too_long_is_lost_and_its_process_replaced_before_the_next():
    async def run() -> tuple[list[object], int]:
        model = NotingModel(1)
        batcher = Batcher(ServingSettings.model_validate({"decode_seconds": 0.05}), 1, Metrics())
        task = Task("{}", cast(ServedModel, model))
        first = await asyncio.gather(batcher.decode(task, [[1]]), return_exceptions=True)
        model.free.set()
        return [*first, await batcher.decode(task, [[2]])], model.replaced

    (lost, found), replaced = asyncio.run(run())
    assert str(lost) == "a batch was not decoded after 0.05 s; try again later"
    assert isinstance(found, list)
    assert replaced == 1


def test_who_waits_while_no_process_can_be_started_is_told_in_time_and_leaves_the_queue():
    async def run() -> tuple[list[object], int, list[int]]:
        model = NotingModel(1)
        model.replacing.clear()
        model.free.set()
        batcher = Batcher(ServingSettings.model_validate({"decode_seconds": 0.2, "batch_users": 1}), 1, Metrics())
        failing, task = (Task(options, cast(ServedModel, model)) for options in ("fail", "{}"))
        asked = [asyncio.create_task(batcher.decode(failing, [[1]]))]
        asked += [asyncio.create_task(batcher.decode(task, [[1]] * 2)) for _ in range(2)]
        await asyncio.sleep(0.15)
        asked.append(asyncio.create_task(batcher.decode(task, [[1]])))
        told = await asyncio.gather(*asked[:3], return_exceptions=True)
        waiting = len(batcher.queue)
        model.replacing.set()
        await asked[3]  # it has waited for less
        return told, waiting, model.sizes

    told, waiting, decoded = asyncio.run(run())
    late = "no decoding process was free within 0.2 s; try again later"
    assert [str(error) for error in told] == ["gone; try again later", late, late]
    assert (waiting, decoded) == (1, [1, 1])


@pytest.mark.parametrize("retired", [False, True])
def test_a_process_is_started_until_it_is_there_and_for_a_model_that_was_replaced_once(
    monkeypatch: pytest.MonkeyPatch, retired: bool
):
    async def run() -> tuple[int, list[int]]:
        model, other = NotingModel(1), NotingModel(1)
        model.failures, model.retired = 2, retired
        for one in (model, other):
            one.free.set()
        batcher = Batcher(ServingSettings(), 1, Metrics())
        with pytest.raises(DecoderLostError):
            await batcher.decode(Task("fail", cast(ServedModel, model)), [[1]])
        await batcher.decode(Task("{}", cast(ServedModel, other)), [[1]])
        return model.replaced, other.sizes

    monkeypatch.setattr("genrec_core.serving.batcher._RETRY_SECONDS", 0.01)
    assert asyncio.run(run()) == (1 if retired else 3, [1])


def test_all_users_of_a_batch_that_fails_are_told_and_the_process_goes_on(caplog: pytest.LogCaptureFixture):
    async def run() -> list[object]:
        model = NotingModel(1)
        model.free.set()
        batcher = Batcher(ServingSettings.model_validate({"batch_users": 2}), 1, Metrics())
        tasks = [Task(options, cast(ServedModel, model)) for options in ("fail", "{}")]
        return await asyncio.gather(*(batcher.decode(task, [[1]] * 5) for task in tasks), return_exceptions=True)

    failed, found = asyncio.run(run())
    assert isinstance(failed, DecoderLostError)
    assert isinstance(found, list)
    assert len(found) == 5
    gc.collect()
    assert {record.name for record in caplog.records} == {"genrec.serving"}  # asyncio says "exception never retrieved"
