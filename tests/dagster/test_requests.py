"""Request files: each is a partition that is served once, a bad one fails alone, and all can be served again."""

import base64
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError

from genrec_core.recommend.recommender import Recommender
from genrec_core.releases.pointer import served_model
from genrec_core.storage.folders import latest
from genrec_dagster.assets.requests import RequestInbox
from genrec_dagster.checks.serving import requests_answered
from genrec_dagster.definitions import defs
from genrec_dagster.inbox_sensor import built_by_their_jobs, request_definitions, request_files

if TYPE_CHECKING:
    from conftest import Place


@dataclass
class Counter:
    """The counter of a shop: files come in, the sensor looks, the runs that it asks for are done."""

    place: Any
    inbox: Path
    cursor: str | None = None

    def __post_init__(self) -> None:
        self.inbox.mkdir()
        base = dg.Definitions(resources=self.place.resources, executor=dg.in_process_executor)
        graph = dg.Definitions(assets=self.place.definitions().assets)
        requests = request_definitions(str(self.inbox))
        self.definitions = built_by_their_jobs(requests, base, graph)
        self.job = self.definitions.resolve_job_def("serve_requests")

    def put(self, name: str, content: str) -> Path:
        path = self.inbox / name
        path.write_text(content)
        self.settle(path)
        return path

    def settle(self, path: Path, age_seconds: float = 60) -> None:
        then = time.time() - age_seconds
        os.utime(path, (then, then))

    def look(self) -> dg.SensorResult | dg.SkipReason:
        """One tick of the sensor; the partitions that it adds are there afterwards."""
        with dg.build_sensor_context(
            self.place.instance,
            self.cursor,
            definitions=self.definitions,
            resources={"inbox": RequestInbox(location=str(self.inbox))},
        ) as context:
            result = request_files(context)
        assert isinstance(result, dg.SensorResult | dg.SkipReason)
        if isinstance(result, dg.SensorResult):
            self.cursor = result.cursor
            for request in result.dynamic_partitions_requests or []:
                self.place.instance.add_dynamic_partitions("request_files", list(request.partition_keys))
        return result

    def run(self, key: str, run_key: str = "") -> dg.ExecuteInProcessResult:
        return self.job.execute_in_process(
            partition_key=key, instance=self.place.instance, raise_on_error=False, tags={"dagster/run_key": run_key},
            run_config={
                "ops": {"request_predictions": {"config": {"top_k": 5}}},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
        )  # fmt: skip

    def serve(self) -> dict[str, dg.ExecuteInProcessResult]:
        """Look until there is nothing to do, and do what was asked; the runs by partition."""
        runs: dict[str, dg.ExecuteInProcessResult] = {}
        while isinstance(result := self.look(), dg.SensorResult):
            assert bool(result.run_requests) != bool(result.dynamic_partitions_requests)
            for request in result.run_requests or []:
                assert request.run_key == request.partition_key
                assert request.partition_key not in runs
                runs[str(request.partition_key)] = self.run(str(request.partition_key))
        return runs

    def lists(self, key: str, name: str = "predictions.csv") -> Path:
        return latest(key, self.place.storage / "request_predictions") / name


@pytest.fixture
def counter(place: "Place", tmp_path: Path) -> Counter:
    return Counter(place, tmp_path / "inbox")


def failure(result: dg.ExecuteInProcessResult, step: str) -> str:
    data = result.failure_data_for_node(step)
    assert data is not None
    return str(data.user_failure_data.description if data.user_failure_data else data.error)


def built(result: dg.ExecuteInProcessResult) -> list[str]:
    return [event.asset_key.to_user_string() for event in result.get_asset_materialization_events()]


def test_each_file_is_served_once_and_a_bad_one_fails_alone(counter: Counter) -> None:
    counter.put("text.txt", "17 1 2 9\n18 4\n19\n")
    counter.put("table.csv", 'user_id,item_ids\n21,"1 2"\n22,nonsense\n')
    bad = counter.put("bad.txt", "1 one\n2 two\n")
    pl.DataFrame({"user_id": [5, 6], "item_ids": [[1, 2], [3]]}).write_parquet(counter.inbox / "typed.parquet")
    counter.settle(counter.inbox / "typed.parquet")
    runs = {key.rpartition("-")[0]: (key, result) for key, result in counter.serve().items()}
    assert set(runs) == {"text.txt", "table.csv", "bad.txt", "typed.parquet"}
    assert {name: result.success for name, (_, result) in runs.items()} == {
        "text.txt": True, "table.csv": True, "bad.txt": False, "typed.parquet": True,
    }  # fmt: skip

    text = pl.read_csv(counter.lists(runs["text.txt"][0]))
    recommender = Recommender.open(served_model(counter.place.storage))
    wanted = recommender.recommend([[1, 2, 9], [4], []], 5)
    assert text["user_id"].to_list() == [17, 18, 19]
    assert text.drop("user_id").rows() == [tuple(items.tolist()) for items in wanted]
    typed = pl.read_parquet(counter.lists(runs["typed.parquet"][0], "predictions.parquet"))
    assert typed["user_id"].to_list() == [5, 6]

    table = next(
        e for e in runs["table.csv"][1].get_asset_materialization_events() if "predictions" in str(e.asset_key)
    )
    assert table.materialization.metadata["rejected_lines"].value == 1
    (rejected,) = table.materialization.metadata["rejected"].value.records
    assert "nonsense" in str(rejected.data)
    for name in ("text.txt", "table.csv", "typed.parquet"):
        checks = {e.check_name: e.passed for e in runs[name][1].get_asset_check_evaluations()}
        gates = {"requests_answered": True, "lists_valid": True}
        assert checks == {**gates, "catalogue_shown": True, "served_as_asked": name == "typed.parquet"}
    assert built(runs["bad.txt"][1]) == ["request_file"]
    reason = failure(runs["bad.txt"][1], "request_predictions")
    assert "none of its 2 lines is a request, the first: line 1: item 'one' is not an integer id" in reason
    assert bad.is_file()

    assert counter.serve() == {}  # nothing is served twice, also not what failed
    counter.cursor = None  # nor by a sensor that was reset: a run's key is its file's
    asked_again = counter.look()
    assert isinstance(asked_again, dg.SensorResult)
    assert {request.run_key for request in asked_again.run_requests or []} == {key for key, _ in runs.values()}


def test_a_file_whose_run_never_started_is_tried_again_three_times_in_all(counter: Counter) -> None:
    counter.put("good.txt", "1 2\n")
    counter.look()
    asked = []
    while isinstance(result := counter.look(), dg.SensorResult):
        (request,) = result.run_requests or []
        asked.append(request.run_key)
        tags = {"dagster/partition": str(request.partition_key), "dagster/run_key": str(request.run_key)}
        run = counter.place.instance.create_run_for_job(job_def=counter.job, tags=tags)
        counter.place.instance.report_run_failed(run, "the launcher did not answer")
    key = asked[0]
    assert asked == [key, f"{key}#2", f"{key}#3"]
    assert counter.look().skip_message == "no new file among 1"


def interrupted(*arguments: Any) -> Any:
    raise DagsterExecutionInterruptedError


def test_a_file_whose_run_was_interrupted_is_tried_again(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    counter.put("good.txt", "1 2\n")
    counter.look()
    (request,) = counter.look().run_requests or []
    with monkeypatch.context() as patch:
        patch.setattr("genrec_dagster.assets.requests.request_page", interrupted)
        assert not counter.run(str(request.partition_key), str(request.run_key)).success
    (again,) = counter.look().run_requests or []
    assert again.run_key == f"{request.run_key}#2"


def test_a_file_that_was_served_by_hand_meanwhile_is_not_tried_again(counter: Counter) -> None:
    counter.put("good.txt", "1 2\n")
    counter.look()
    result = counter.look()
    (request,) = result.run_requests or []
    tags = {"dagster/partition": str(request.partition_key), "dagster/run_key": str(request.run_key)}
    run = counter.place.instance.create_run_for_job(job_def=counter.job, tags=tags)
    counter.place.instance.report_run_failed(run, "the launcher did not answer")
    assert counter.run(str(request.partition_key)).success
    assert isinstance(counter.look(), dg.SkipReason)


HTML = (
    "<html>\n<head><title>Our shop</title></head>\n<body>\n<h1>Hello</h1>\n"
    "<p>All our soap is new.</p>\n</body>\n</html>\n"
)
LETTER = "Dear all\nhere are the users of today\nplease serve them soon\nYours\nJoe\n"
JSON = '{\n  "users": [\n    {"user_id": "1", "item_ids": [1, 2]}\n  ]\n}\n'
ZIP = base64.b64decode("UEsDBBQAAAAIAAAAIQCGphA2BwAAAAUAAAAFAAAAYS50eHTLSM3JyQcAUEsFBgAAAAABAAEAMwAAACoAAAAAAA==")
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\n\xff\xd8IDAT"
PDF = (
    b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\nxref\n0 2\n0000000000 65535 f\n"
    b"trailer\n<< /Root 1 0 R >>\n"
)


@pytest.mark.parametrize(
    "content",
    [b"hello world ...\n<html>\n", HTML.encode(), LETTER.encode(), JSON.encode(), ZIP, PNG, PDF],
    ids=["two lines", "html", "letter", "json", "zip", "png", "pdf"],
)
def test_a_file_of_another_kind_fails_with_one_reason_and_leaves_nothing(counter: Counter, content: bytes) -> None:
    counter.put("wrong.txt", "").write_bytes(content)
    counter.settle(counter.inbox / "wrong.txt")
    ((key, result),) = counter.serve().items()
    assert not result.success
    assert built(result) == ["request_file"]
    reason = failure(result, "request_predictions")
    assert reason.startswith(f"{key}: ")
    assert "the first: line " in reason
    assert "\n" not in reason
    assert not list(counter.place.storage.glob("request_predictions/*/*"))


@pytest.mark.parametrize(
    "content",
    ["501\n502\n503\n", "".join(f"{user}\n" for user in range(40)) + "40 soap\n", "1 2\n2 3\n3 soap\n4 soap\n"],
    ids=["new users", "new users and a bad line", "half are bad"],
)
def test_new_users_and_single_bad_lines_are_served(counter: Counter, content: str) -> None:
    counter.put("right.txt", content)
    ((_, result),) = counter.serve().items()
    assert result.success


def test_a_look_adds_partitions_or_asks_for_runs_and_neither_starves_the_other(counter: Counter) -> None:
    did = []
    for number in range(6):
        counter.put(f"{number}.txt", f"{number} 1\n")  # a new file before every look
        result = counter.look()
        assert isinstance(result, dg.SensorResult)
        did.append((len(result.dynamic_partitions_requests or []), len(result.run_requests or [])))
    assert did == [(1, 0), (0, 1), (1, 0), (0, 2), (1, 0), (0, 2)]


def test_a_look_that_died_before_its_cursor_was_kept_loses_nothing(counter: Counter) -> None:
    counter.put("a.txt", "1 2\n")
    counter.look()
    counter.cursor = None
    result = counter.look()
    assert isinstance(result, dg.SensorResult)
    assert [request.run_key for request in result.run_requests or []] == [
        *counter.place.instance.get_dynamic_partitions("request_files")
    ]


def test_a_file_written_anew_is_served_anew_and_the_old_answer_stays(counter: Counter) -> None:
    counter.put("daily.txt", "1 2\n")
    (first,) = counter.serve()
    counter.put("daily.txt", "1 2\n3 4\n")
    (second,) = counter.serve()
    assert pl.read_csv(counter.lists(first)).height == 1
    assert pl.read_csv(counter.lists(second)).height == 2


def test_all_partitions_can_be_served_again_when_the_inbox_is_empty(counter: Counter) -> None:
    for name in ("a.txt", "b.txt"):
        counter.put(name, "1 2 3\n").exists()
    first = counter.serve()
    for file in counter.inbox.iterdir():
        file.unlink()
    again = counter.definitions.resolve_job_def("serve_again")
    partitions = counter.place.instance.get_dynamic_partitions("request_files")
    assert set(partitions) == set(first)
    for key in partitions:  # what a backfill does: a run a partition
        result = again.execute_in_process(
            partition_key=key, instance=counter.place.instance, raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )  # fmt: skip
        assert result.success
        assert built(result) == ["request_predictions"]
        assert counter.lists(key).parent.name == result.run_id
    gone = counter.run(next(iter(first)))
    assert not gone.success
    assert "it was removed or changed" in failure(gone, "request_file")


def test_an_answer_that_lacks_a_row_fails_its_check(counter: Counter, tmp_path: Path) -> None:
    counter.put("a.txt", "1 2 3\n2 4\n")
    (key,) = counter.serve()
    requests = latest(key, counter.place.storage / "request_file")
    lines = counter.lists(key).read_text().splitlines(keepends=True)
    (tmp_path / "predictions.csv").write_text("".join(lines[:-1]))
    result = requests_answered(tmp_path / "predictions.csv", requests / "requests.txt", text_ids=False)
    assert not result.passed
    assert result.description == "measured 1 rows, users not as requested, wanted 2 rows, users as requested"


def test_with_an_inbox_everything_that_a_page_can_build_needs_no_partition(tmp_path: Path) -> None:
    shop = built_by_their_jobs(request_definitions(str(tmp_path)), defs)
    dg.Definitions.validate_loadable(shop)
    graph = shop.resolve_asset_graph()
    names = {"request_file", "request_predictions"}
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} > names
    buildable = {key.to_user_string() for key in graph.executable_asset_keys}
    assert buildable == {key.to_user_string() for key in graph.get_all_asset_keys()} - names
    assert all(graph.get(key).partitions_def is None for key in graph.executable_asset_keys)
    full = shop.resolve_job_def("full_graph").asset_layer
    assert not names & {key.to_user_string() for key in full.executable_asset_keys}
    assert not names & {key.asset_key.to_user_string() for key in full.asset_graph.asset_check_keys}


def test_without_an_inbox_there_is_nothing_to_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENREC_INBOX", raising=False)
    assert not request_definitions().assets
    monkeypatch.setenv("GENREC_INBOX", "/somewhere")
    assert len(list(request_definitions().assets or [])) == 2
