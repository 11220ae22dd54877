"""Storage in a bucket, against a real S3 server: what is put there comes back whole, or the reason is said."""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from genrec_core.cli.main import main
from genrec_core.data.archive import fingerprint, opened_source
from genrec_core.data.sources import is_wanted, lacking
from genrec_core.errors import GenrecError
from genrec_core.releases import pointer as releases
from genrec_core.releases.pointer import (
    ServedMeanwhileError,
    first_pointer,
    require_pointer,
    served_pointer,
    served_release,
    write_pointer,
)
from genrec_core.releases.transfer import clean, transfer_release
from genrec_core.settings import DataSettings
from genrec_core.storage import folders as storage
from genrec_core.storage import object_store
from genrec_core.storage.artifacts import MANIFEST, atomic_folder, verify_manifest, write_json, write_manifest
from genrec_core.storage.folders import is_there, latest, set_latest, storage_root, version_folder
from genrec_core.storage.inbox import ObjectInbox, find_file
from genrec_core.storage.object_store import ObjectStore

if TYPE_CHECKING:
    from conftest import ObjectServer

URL = "s3://shop/one/two"


def build(root: Path, asset: str, version: str, content: bytes = b"codes", recall: float | None = None) -> Path:
    with atomic_folder(root / asset / version) as part:
        if recall is not None:
            write_json(part / "checkpoint" / "training_history.json", {"best_recall@10": recall})
        (part / "inner").mkdir()
        (part / "inner" / "codes.bin").write_bytes(content)
        write_manifest(part)
    set_latest(asset, version, root)
    return root / asset / version


def serve(root: Path, version: str, recall: float | None = None) -> None:
    build(root, "model_release", version, recall=recall)
    before = served_pointer(root)
    pointer = before.moved(version, "test") if before else first_pointer(version, "test")
    with atomic_folder(root / "served_release" / f"of-{version}") as part:
        write_pointer(part, pointer)
        write_manifest(part)
    set_latest("served_release", f"of-{version}", root)


@pytest.fixture
def bucket(object_server: "ObjectServer") -> Path:
    """The server's own folder for the storage of these tests."""
    return object_server.folder / "shop" / "one" / "two"


@pytest.fixture
def root(bucket: Path) -> Path:
    return storage_root(URL)


def another_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("GENREC_MIRROR", str(tmp_path / "mirror of another"))
    return storage_root(URL)


def test_what_one_machine_finished_another_reads(
    root: Path, bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_there("semantic_ids", root)
    build(root, "semantic_ids", "run-1")
    assert sorted(path.name for path in (bucket / "semantic_ids" / "run-1").iterdir()) == ["inner", MANIFEST]
    other = another_machine(monkeypatch, tmp_path)
    assert is_there("semantic_ids", other)
    assert (latest("semantic_ids", other) / "inner" / "codes.bin").read_bytes() == b"codes"
    build(root, "semantic_ids", "run-2", b"newer")
    assert latest("semantic_ids", other) == other / "semantic_ids" / "run-2"
    assert (version_folder("semantic_ids", "run-1", other) / "inner" / "codes.bin").read_bytes() == b"codes"


def test_a_partition_lies_a_folder_deeper(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(root / "request_predictions", "shop.txt-1", "run-1")
    other = another_machine(monkeypatch, tmp_path)
    assert (latest("shop.txt-1", other / "request_predictions") / MANIFEST).is_file()


def test_what_is_here_is_not_fetched_again(root: Path, bucket: Path) -> None:
    with atomic_folder(root / "model_release" / "run-1") as part:
        (part / "model").mkdir()
        (part / "model" / "codes.bin").write_bytes(b"codes")
        write_manifest(part / "model")  # a release's parts keep their own
        write_manifest(part)
    set_latest("model_release", "run-1", root)
    before = {path: path.stat().st_ino for path in (root / "model_release" / "run-1").rglob("*")}
    assert {path: path.stat().st_ino for path in latest("model_release", root).rglob("*")} == before


def test_two_that_want_a_version_at_once_get_it(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(root, "semantic_ids", "run-1")
    other = another_machine(monkeypatch, tmp_path)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: latest("semantic_ids", other).stat().st_ino, range(4)))
    assert len(set(found)) == 1


def test_a_large_file_goes_in_parts(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(20 << 20)
    build(root, "tiger_checkpoint", "run-1", content)
    found = latest("tiger_checkpoint", another_machine(monkeypatch, tmp_path))
    assert (found / "inner" / "codes.bin").read_bytes() == content


def test_a_version_without_its_manifest_was_never_finished(
    object_server: "ObjectServer", root: Path, bucket: Path
) -> None:
    build(root, "semantic_ids", "run-1")
    (bucket / "semantic_ids" / "run-1" / MANIFEST).unlink()
    object_server.notice()
    with pytest.raises(GenrecError, match=r"run-1.*build semantic_ids again"):
        latest("semantic_ids", root)


def test_an_object_that_was_changed_is_refused(
    object_server: "ObjectServer", root: Path, bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(root, "semantic_ids", "run-1")
    (bucket / "semantic_ids" / "run-1" / "inner" / "codes.bin").write_bytes(b"c0des")
    object_server.notice()
    other = another_machine(monkeypatch, tmp_path)
    with pytest.raises(GenrecError, match=r"codes\.bin: differs from the sha256"):
        latest("semantic_ids", other)
    assert not list((other / "semantic_ids").glob("run-1*"))


def test_a_file_that_changes_follows(object_server: "ObjectServer", root: Path, bucket: Path) -> None:
    folder = build(root, "model_release", "run-1")
    (bucket / "model_release" / "run-1" / "withdrawn.json").write_text("[1]")
    object_server.notice()
    assert version_folder("model_release", "run-1", root) == folder
    assert (folder / "withdrawn.json").read_text() == "[1]"
    verify_manifest(folder)


@pytest.mark.parametrize(
    ("url", "given", "said"),
    [
        ("s3://nowhere/a", {}, "NoSuchBucket.*create it"),
        (URL, {"key": "genrec-other-key"}, "AWS_ACCESS_KEY_ID|rights"),
        (URL, {"secret": "genrec-wrong-secret"}, "AWS_SECRET_ACCESS_KEY|rights"),
    ],
)
def test_what_the_store_refuses_is_said(
    object_server: "ObjectServer", url: str, given: dict[str, str], said: str
) -> None:
    object_server.use(**given)
    root = storage_root(url)
    with pytest.raises(GenrecError, match=said) as refused:
        build(root, "semantic_ids", "run-1")
    assert "genrec-wrong-secret" not in str(refused.value)
    assert not (root / "semantic_ids" / "run-1").exists()


class RefusingServer(BaseHTTPRequestHandler):
    """Answers every request with ``code``, as stores do: without a body where only the head is asked for."""

    code, status = "", 403

    def log_message(self, *arguments: object) -> None:
        pass

    def refuse(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = f"<Error><Code>{self.code}</Code><Message>m</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = refuse  # noqa: N815 - http.server asks for these names


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str, int], str]]:
    """What is said where a store refuses everything with this code and status."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), RefusingServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "abc")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    object_store._client.cache_clear()

    def ask(code: str = "AccessDenied", status: int = 403) -> str:
        monkeypatch.setattr(RefusingServer, "code", code)
        monkeypatch.setattr(RefusingServer, "status", status)
        with pytest.raises(GenrecError) as error:
            ObjectStore(URL).listing()
        assert "\n" not in str(error.value)
        return str(error.value)

    yield ask
    server.shutdown()
    server.server_close()
    object_store._client.cache_clear()


@pytest.mark.parametrize(
    ("code", "status", "remedy"),
    [
        ("ExpiredToken", 400, "get new ones"),
        ("InvalidToken", 400, "AWS_SESSION_TOKEN"),
        ("RequestTimeTooSkewed", 403, "clock"),
        ("QuotaExceeded", 403, "quota"),
        ("InvalidAccessKeyId", 403, "check AWS_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", 403, "check AWS_SECRET_ACCESS_KEY"),
        ("AccessDenied", 403, "rights to list"),
        ("PermanentRedirect", 301, "AWS_DEFAULT_REGION"),
        ("AuthorizationHeaderMalformed", 400, "AWS_DEFAULT_REGION"),
        ("NoSuchBucket", 404, "create it"),
        ("SomethingNew", 418, "check AWS_ENDPOINT_URL_S3 and the network"),
    ],
)
def test_each_refusal_has_its_own_remedy(
    refused: Callable[[str, int], str], code: str, status: int, remedy: str
) -> None:
    assert remedy in refused(code, status)


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("AWS_ENDPOINT_URL_S3", "storage.yandexcloud.net", "write https:// before"),
        ("AWS_ACCESS_KEY_ID", "abc\r", "AWS_ACCESS_KEY_ID: a line end or a space"),
        ("AWS_SECRET_ACCESS_KEY", "", "one half of the key is missing"),
        ("AWS_DEFAULT_REGION", "no region", "write it like eu-central-1"),
        ("AWS_PROFILE", "nobody", "AWS_PROFILE names no profile"),
    ],
)
def test_each_wrong_variable_has_its_own_remedy(
    refused: Callable[[], str], monkeypatch: pytest.MonkeyPatch, name: str, value: str, remedy: str
) -> None:
    if name == "AWS_SECRET_ACCESS_KEY":
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    assert remedy in refused()


def test_a_file_of_credentials_that_does_not_parse_is_named(
    refused: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    (tmp_path / "credentials").write_text("aws_access_key_id = abc\n")
    assert "~/.aws/credentials cannot be read" in refused()


@pytest.mark.parametrize("url", ["s3://", "s3://ab", "s3://Shop/a", "s3://shop/../a", "gs://shop/a"])
def test_an_address_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(GenrecError, match=url):
        storage_root(url)


@pytest.mark.parametrize("fault", ["500", "half"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_store_that_fails_now_and_then_loses_nothing(
    object_server: "ObjectServer", root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, method: str
) -> None:
    with object_server.faulty() as proxy:
        proxy.method, proxy.faults = method, [fault, fault]
        build(root, "semantic_ids", "run-1", b"x" * 100_000)
        found = latest("semantic_ids", another_machine(monkeypatch, tmp_path))
        assert (found / "inner" / "codes.bin").read_bytes() == b"x" * 100_000
        assert proxy.broken == 2


def test_a_store_that_hangs_is_asked_again(
    object_server: "ObjectServer", root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "_READ_SECONDS", 1)
    build(root, "semantic_ids", "run-1")
    with object_server.faulty() as proxy:
        proxy.faults = ["hang"]
        assert (latest("semantic_ids", another_machine(monkeypatch, tmp_path)) / MANIFEST).is_file()
        assert proxy.broken == 1


def test_a_store_that_is_started_again_is_waited_for(
    object_server: "ObjectServer", root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(root, "semantic_ids", "run-1")
    monkeypatch.setattr(object_store, "_PAUSES", (1, 2, 4))
    object_server.kill()
    back = threading.Timer(4, object_server.start)
    back.start()
    assert latest("semantic_ids", root).name == "run-1"
    back.join()
    build(root, "semantic_ids", "run-2")
    assert latest("semantic_ids", root).name == "run-2"


def test_a_store_that_died_is_named_and_what_was_there_stays(object_server: "ObjectServer", root: Path) -> None:
    build(root, "semantic_ids", "run-1")
    object_server.kill()
    with pytest.raises(GenrecError, match="does not answer"):
        build(root, "semantic_ids", "run-2")
    object_server.start()
    object_server.use()
    assert latest("semantic_ids", root).name == "run-1"


def test_a_release_is_pushed_and_pulled(
    object_server: "ObjectServer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    monkeypatch.setenv("GENREC_STORAGE", str(here))
    serve(here, "run-1")
    serve(here, "run-2")
    assert main(["push", URL]) == 0
    assert served_release(storage_root(URL)).name == "run-2"
    monkeypatch.setenv("GENREC_STORAGE", str(there))
    assert main(["pull", URL]) == 0
    assert "release run-2 is whole" in capsys.readouterr().out
    verify_manifest(served_release(there))
    assert main(["pull", str(here), "--release", "run-1"]) == 0
    pointer = served_pointer(there)
    assert pointer is not None
    assert (pointer.version, pointer.before, pointer.known) == ("run-1", ("run-2",), ("run-2", "run-1"))


def test_only_what_was_served_is_taken(tmp_path: Path) -> None:
    serve(tmp_path / "here", "run-1")
    build(tmp_path / "here", "model_release", "run-2")
    with pytest.raises(GenrecError, match="run-2 was never served"):
        transfer_release(tmp_path / "here", tmp_path / "there", "run-2")
    with pytest.raises(GenrecError, match="no release is served there"):
        transfer_release(tmp_path / "there", tmp_path / "here")
    with pytest.raises(GenrecError, match="name another storage"):
        transfer_release(tmp_path / "here", tmp_path / "here")


def test_a_bucket_without_a_release_is_named_by_its_address(root: Path, tmp_path: Path) -> None:
    with pytest.raises(GenrecError, match=f"^{URL}: no release"):
        transfer_release(root, tmp_path / "there")


def test_a_release_that_is_served_is_the_newest_if_the_process_dies_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    serve(here, "run-1")
    transfer_release(here, there)
    serve(here, "run-2")

    def serve_and_die(*given: Any) -> None:
        releases.serve(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr("genrec_core.releases.transfer.serve", serve_and_die)
    with pytest.raises(KeyboardInterrupt):
        transfer_release(here, there)
    assert require_pointer(there).version == latest("model_release", there).name == "run-2"


def test_a_damaged_release_is_not_taken(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    serve(here, "run-1")
    (here / "model_release" / "run-1" / "inner" / "codes.bin").write_bytes(b"c0des")
    with pytest.raises(GenrecError, match="differs from the sha256"):
        transfer_release(here, there)
    assert not is_there("served_release", there)


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_old_versions_are_cleaned_away(
    object_server: "ObjectServer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    root = storage_root(URL) if place == "bucket" else tmp_path / "folder"
    lies = object_server.folder / "shop" / "one" / "two" if place == "bucket" else root
    for number in range(1, 6):
        build(root, "semantic_ids", f"run-{number}")
        serve(root, f"run-{number}", recall=None if number == 4 else 0.1 / number)
        for file in lies.rglob("*"):
            if file.is_file() and f"run-{number}" in file.as_posix():
                os.utime(file, (1_600_000_000 + number, 1_600_000_000 + number))
    shutil.copytree(lies / "semantic_ids" / "run-1", lies / "semantic_ids" / "run-0")
    (lies / "semantic_ids" / "run-0" / MANIFEST).unlink()
    object_server.notice()
    assert clean(root, 1, timedelta(days=36_500)) == []
    removed = {(found.asset, found.version) for found in clean(root, 2, timedelta(0))}
    # Releases: run-5 is served, run-4 and run-3 were before it, and the training of run-1 reached the highest recall.
    assert removed == {
        ("model_release", "run-2"),
        *(("semantic_ids", f"run-{number}") for number in range(4)),
        *(("served_release", f"of-run-{number}") for number in range(1, 4)),
    }  # fmt: skip
    assert sorted(path.name for path in (lies / "semantic_ids").iterdir()) == ["latest.json", "run-4", "run-5"]
    assert latest("semantic_ids", root).name == served_release(root).name == "run-5"


def test_cleaning_fetches_no_release_to_find_the_best_and_passes_over_a_damaged_one(
    bucket: Path, object_server: "ObjectServer", root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 6):
        serve(root, f"run-{number}", recall=0.1 / number)
    (bucket / "model_release" / "run-1" / "checkpoint" / "training_history.json").write_text("{damaged")
    for file in (bucket / "model_release").glob("run-*/**/*.*"):
        written = 1_600_000_000 + int(file.relative_to(bucket).parts[1].removeprefix("run-"))
        os.utime(file, (written, written))
    object_server.notice()
    other = another_machine(monkeypatch, tmp_path)
    removed = {found.version for found in clean(other, 1, timedelta(0)) if found.asset == "model_release"}
    assert removed == {"run-1", "run-3"}  # run-5 is served, run-4 was before it, run-2 is the best that can be read
    assert {path.name for path in (other / "model_release").glob("run-*")} <= {"run-5"}  # the newest


def test_a_move_is_seen_on_every_machine(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = another_machine(monkeypatch, tmp_path)
    releases.serve(first_pointer("a", ""), root)
    releases.serve(require_pointer(other).moved("b", ""), other)
    read = require_pointer(root)
    assert (read.version, read.before) == ("b", ("a",))
    releases.serve(read.moved("c", ""), root)
    with pytest.raises(ServedMeanwhileError, match="release c was served"):
        releases.serve(read.moved("d", ""), other)
    assert require_pointer(other).known == ("a", "b", "c")
    assert len(clean(root, 1, timedelta(0))) == 2  # the pointers to a and b
    assert require_pointer(other).version == "c"


@pytest.mark.parametrize(("if_none_match", "honoured"), [("honoured", True), ("ignored", False), ("unknown", False)])
def test_a_store_that_does_not_know_if_none_match_is_found_out(
    object_server: "ObjectServer", root: Path, if_none_match: str, honoured: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with object_server.faulty() as proxy:
        proxy.if_none_match = if_none_match
        releases.serve(first_pointer("a", ""), root)
        releases.serve(require_pointer(root).moved("b", ""), root)
        assert require_pointer(root).before == ("a",)
    assert ("/served_release ignores If-None-Match: let one machine alone move" not in caplog.text) is honoured


def test_of_two_machines_that_move_at_once_one_does(
    object_server: "ObjectServer", root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, claim = another_machine(monkeypatch, tmp_path), storage._claim
    with object_server.faulty() as proxy:
        proxy.if_none_match = "honoured"
        releases.serve(first_pointer("a", ""), root)
        pointers = {place: require_pointer(place) for place in (root, other)}

        def be_overtaken(*given: Any) -> bool:
            monkeypatch.setattr(storage, "_claim", claim)
            releases.serve(pointers[other].moved("b", "quicker"), other)
            return claim(*given)

        monkeypatch.setattr(storage, "_claim", be_overtaken)
        with pytest.raises(ServedMeanwhileError, match="release b was served while this ran"):
            releases.serve(pointers[root].moved("c", "slower"), root)
        assert [require_pointer(place).known for place in (root, other)] == [("a", "b"), ("a", "b")]
        assert len({version.version for version in storage.all_versions("served_release", root)}) == 2


def test_of_machines_that_race_for_a_bucket_no_release_is_lost(
    object_server: "ObjectServer", root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [root, another_machine(monkeypatch, tmp_path)]
    with object_server.faulty() as proxy:
        proxy.if_none_match = "honoured"
        releases.serve(first_pointer("first", ""), root)

        def serve_some(machine: int) -> None:
            for number in range(3):
                while True:
                    pointer = require_pointer(places[machine])
                    with suppress(ServedMeanwhileError):
                        releases.serve(pointer.moved(f"{machine}-{number}", "race"), places[machine])
                        break

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(serve_some, range(2)))
        versions = ["first", *(f"{machine}-{number}" for machine in range(2) for number in range(3))]
        assert sorted(require_pointer(root).known) == sorted(versions)


def test_a_machine_that_dies_before_it_copies_its_move_has_moved(
    object_server: "ObjectServer", root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*given: Any) -> None:
        raise KeyboardInterrupt

    other = another_machine(monkeypatch, tmp_path)
    releases.serve(first_pointer("a", ""), root)
    read = require_pointer(other)
    monkeypatch.setattr(storage, "point_latest", die)
    with pytest.raises(KeyboardInterrupt):
        releases.serve(read.moved("b", ""), root)
    monkeypatch.undo()
    object_server.use()
    assert [require_pointer(place).version for place in (root, other)] == ["b", "b"]
    with pytest.raises(ServedMeanwhileError, match="release b was served"):
        releases.serve(read.moved("c", ""), other)


def test_a_push_that_was_cut_off_is_sent_again(object_server: "ObjectServer", root: Path, tmp_path: Path) -> None:
    serve(tmp_path / "here", "run-1")
    transfer_release(tmp_path / "here", root)
    bucket = object_server.folder / "shop" / "one" / "two"
    shutil.rmtree(bucket / "served_release")
    (bucket / "model_release" / "run-1" / MANIFEST).unlink()
    object_server.notice()
    transfer_release(tmp_path / "here", root)
    assert (bucket / "model_release" / "run-1" / MANIFEST).is_file()


def test_raw_data_come_from_a_bucket(object_server: "ObjectServer", sample_folder: Path) -> None:
    wanted = ("sequential_data.txt", "meta.json.gz", "datamaps.json")
    with pytest.raises(GenrecError, match="no object lies there"):
        fingerprint("s3://shop/raw")
    shutil.copytree(sample_folder, object_server.folder / "shop" / "raw" / "beauty")
    object_server.notice()
    before = fingerprint("s3://shop/raw")
    with opened_source("s3://shop/raw", is_wanted, partial(lacking, settings=DataSettings())) as folder:
        assert all((folder / name).read_bytes() == (sample_folder / name).read_bytes() for name in wanted)
    assert fingerprint("s3://shop/raw") == before
    with (object_server.folder / "shop" / "raw" / "beauty" / wanted[0]).open("a") as file:
        file.write("999 1 2 3\n")
    object_server.notice()
    assert fingerprint("s3://shop/raw") != before
    with (
        pytest.raises(GenrecError, match="no file of data among"),
        opened_source("s3://shop/row", is_wanted, partial(lacking, settings=DataSettings())),
    ):
        pass


def test_a_client_that_was_made_elsewhere_is_used(
    object_server: "ObjectServer", monkeypatch: pytest.MonkeyPatch
) -> None:
    made_elsewhere = object_store._client()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name)
    object_store.use_client(lambda: made_elsewhere)
    try:
        store = ObjectStore("s3://shop/elsewhere")
        store.write("note.txt", b"here")
        assert store.read("note.txt") == b"here"
        assert store.read("missing.txt") is None
    finally:
        object_store.use_client(None)
    assert object_store._client() is not made_elsewhere


def test_request_files_come_from_a_bucket(object_server: "ObjectServer", tmp_path: Path) -> None:
    folder = object_server.folder / "shop" / "inbox"
    (folder / "deeper").mkdir(parents=True)
    for name in ("a.txt", "b.csv", "c.part", ".d", "deeper/e.txt"):
        (folder / name).write_text("1 2 3\n")
    object_server.notice()
    inbox = ObjectInbox(ObjectStore("s3://shop/inbox"))
    files = inbox.files()
    assert [file.name for file in files] == ["a.txt", "b.csv"]
    inbox.fetch(find_file(inbox, files[0].key), tmp_path / "received")
    assert (tmp_path / "received").read_text() == "1 2 3\n"
    (folder / "a.txt").write_text("4 5 6 7\n")
    object_server.notice()
    with pytest.raises(GenrecError, match="changed since it was seen"):
        inbox.fetch(files[0], tmp_path / "again")
    assert not (tmp_path / "again").exists()
    assert inbox.files()[0].key != files[0].key


def test_a_pointer_that_is_no_json_is_named(object_server: "ObjectServer", root: Path, bucket: Path) -> None:
    build(root, "semantic_ids", "run-1")
    (bucket / "semantic_ids" / "latest.json").write_text(json.dumps({"version": "run-1"})[:-3])
    object_server.notice()
    with pytest.raises(GenrecError, match=r"latest\.json: not valid JSON"):
        latest("semantic_ids", root)
