"""Archives and downloads are taken for hostile: nothing leaves the folder, fills the disk, or tells a password."""

import base64
import hashlib
import io
import shutil
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from genrec_core.data import archive
from genrec_core.data.archive import fingerprint
from genrec_core.data.p5 import RAW_FILES
from genrec_core.data.sources import is_wanted, lacking, receive_raw
from genrec_core.errors import GenrecError
from genrec_core.settings import DataSettings


@pytest.fixture
def packed(sample_folder: Path, tmp_path: Path) -> Path:
    """The tiny shop as a zip archive."""
    return Path(shutil.make_archive(str(tmp_path / "shop"), "zip", sample_folder))


class Shop:
    """A server of one archive: below ``/locked/`` for joe alone, below ``/moved/`` by way of another host's name."""

    def __init__(self, content: bytes) -> None:
        self.content, self.seen = content, []
        self.told_bytes: int | None = None
        shop = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                shop.seen.append((self.command, self.path, self.headers.get("Authorization")))
                wanted = "Basic " + base64.b64encode(b"joe:s3cr3t/p@ss").decode()
                if self.path.startswith("/locked/") and self.headers.get("Authorization") != wanted:
                    return self.answer(401)
                if self.path.startswith("/moved/"):
                    self.send_response(302)
                    self.send_header("Location", f"http://localhost:{shop.port}/shop.zip")
                    return self.end_headers()
                if self.path.startswith("/file/"):
                    self.send_response(302)
                    self.send_header("Location", "ftp://localhost/shop.zip")
                    return self.end_headers()
                return self.answer(200, shop.content)

            def answer(self, status: int, content: bytes = b"") -> None:
                self.send_response(status)
                if shop.told_bytes != -1:
                    self.send_header("Content-Length", str(shop.told_bytes or len(content)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port

    def at(self, path: str, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.port}/{path}"


@pytest.fixture
def shop(packed: Path) -> Iterator[Shop]:
    running = Shop(packed.read_bytes())
    threading.Thread(target=running.server.serve_forever, daemon=True).start()
    yield running
    running.server.shutdown()
    running.server.server_close()


JOE = "joe:s3cr3t%2Fp%40ss@"


# --- archives -------------------------------------------------------------------------------------------------------


def rewritten(packed: Path, field: int, value: int) -> Path:
    """The archive with a 16-bit field of each entry's header changed, counted from the local header's start."""
    content = bytearray(packed.read_bytes())
    for signature, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):  # in the table it comes two bytes later
        place = -1
        while (place := content.find(signature, place + 1)) >= 0:
            content[place + field + shift : place + field + shift + 2] = value.to_bytes(2, "little")
    packed.write_bytes(content)
    return packed


@pytest.mark.parametrize(("field", "value", "said"), [(8, 9, "compression"), (6, 1, "encrypted")])
def test_an_archive_that_python_cannot_open_is_to_be_unpacked_by_hand(
    packed: Path, tmp_path: Path, field: int, value: int, said: str
) -> None:
    with pytest.raises(GenrecError, match=rf"^{packed}: cannot be unpacked \(.*{said}.*\); unpack it by hand"):
        receive_raw(str(rewritten(packed, field, value)), tmp_path / "raw")


@pytest.mark.parametrize("form", ["zip", "gztar", "bztar", "xztar"])
def test_an_archive_that_was_cut_off_is_to_be_got_again(sample_folder: Path, tmp_path: Path, form: str) -> None:
    cut = Path(shutil.make_archive(str(tmp_path / "shop"), form, sample_folder))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    with pytest.raises(GenrecError, match=rf"^{cut}: .*get it again"):
        receive_raw(str(cut), tmp_path / "raw")


def test_a_fault_in_a_download_is_named_by_its_address(shop: Shop, tmp_path: Path) -> None:
    shop.content = b"no archive"
    with pytest.raises(GenrecError, match=f"^{shop.at('shop.zip')}: neither a folder nor a whole zip"):
        receive_raw(shop.at("shop.zip"), tmp_path / "raw")


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for member, content in members:
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return path


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    return member


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "a/../../escaped"])
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_a_name_that_would_leave_the_folder_is_refused(tmp_path: Path, name: str, form: str) -> None:
    evil = tmp_path / f"evil.{form}"
    if form == "zip":
        with zipfile.ZipFile(evil, "w") as packed:
            packed.writestr(name, "x")
    else:
        tar_of(evil, (tarfile.TarInfo(name), b"x"))
    with pytest.raises(GenrecError, match=r"evil.*would be written outside the folder"):
        receive_raw(str(evil), tmp_path / "out")
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_raw_file_that_is_a_link_or_a_device_is_refused(tmp_path: Path, kind: bytes) -> None:
    """Also a link to another file of the archive, which tarfile's own filter lets pass."""
    (tmp_path / "secret").write_text("1 1 2\n")
    members = [(tarfile.TarInfo("other"), b"1 1 2\n"), (link("sequential_data.txt", "other", kind), b"")]
    with pytest.raises(GenrecError, match=r"sequential_data\.txt is no regular file"):
        receive_raw(str(tar_of(tmp_path / "evil.tar.gz", *members)), tmp_path / "out")


def test_a_raw_file_that_is_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("datamaps.json")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as packed:
        packed.writestr(entry, "/etc/passwd")
    with pytest.raises(GenrecError, match=r"datamaps\.json is no regular file"):
        receive_raw(str(tmp_path / "evil.zip"), tmp_path / "out")


def test_only_the_raw_files_are_unpacked(sample_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What else an archive holds, be it a bomb, is not written."""
    monkeypatch.setattr(archive, "_LARGEST_UNPACKED", 1 << 20)
    path = tmp_path / "shop.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", bytes(2 << 20))
        for name in RAW_FILES:
            packed.write(sample_folder / name, f"beauty/{name}")
    with archive.opened_source(str(path), is_wanted, partial(lacking, settings=DataSettings())) as folder:
        assert sorted(file.name for file in folder.rglob("*")) == sorted(RAW_FILES)


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_a_raw_file_that_is_a_bomb_is_refused_before_it_is_written(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_LARGEST_UNPACKED", 1 << 20)
    bomb = tmp_path / f"bomb.{form}"
    if form == "zip":
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("sequential_data.txt", bytes(2 << 20))
    else:
        tar_of(bomb, (tarfile.TarInfo("sequential_data.txt"), bytes(2 << 20)))
    with pytest.raises(GenrecError, match=r"unpacks to 2097152 bytes, over the limit of 1048576"):
        receive_raw(str(bomb), tmp_path / "out")


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_an_archive_of_endless_entries_is_refused(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_MOST_ENTRIES", 10)
    many = tmp_path / f"many.{form}"
    if form == "zip":
        with zipfile.ZipFile(many, "w") as packed:
            for number in range(20):
                packed.writestr(str(number), "")
    else:
        tar_of(many, *((tarfile.TarInfo(str(number)), b"") for number in range(20)))
    with pytest.raises(GenrecError, match=r"many.*more than 10 entries"):
        receive_raw(str(many), tmp_path / "out")


# --- what is expected -----------------------------------------------------------------------------------------------


def test_an_archive_of_another_sha256_is_refused(packed: Path, shop: Shop, tmp_path: Path) -> None:
    right = hashlib.sha256(packed.read_bytes()).hexdigest()
    for source in (str(packed), shop.at("shop.zip")):
        assert receive_raw(source, tmp_path / "out", right.upper())["users"] == 200
        with pytest.raises(GenrecError, match=f"shop.zip: its sha256 is {right}, not the expected {'0' * 64}"):
            receive_raw(source, tmp_path / "bad", "0" * 64)
    assert not (tmp_path / "bad").exists()


def test_what_is_no_archive_has_no_sha256(sample_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(GenrecError, match="only an archive has a sha256"):
        receive_raw(str(sample_folder), tmp_path / "out", "0" * 64)


# --- downloads ------------------------------------------------------------------------------------------------------


def test_a_password_in_the_address_opens_the_door_and_is_told_nobody(shop: Shop, tmp_path: Path) -> None:
    source = shop.at("locked/shop.zip?signature=abc123", JOE)
    provenance = receive_raw(source, tmp_path / "out")
    assert provenance["source"] == f"http://***@127.0.0.1:{shop.port}/locked/shop.zip?***"
    assert fingerprint(source)
    assert {path for _, path, _ in shop.seen} == {"/locked/shop.zip?signature=abc123"}


@pytest.mark.parametrize("ask", [lambda source, out: receive_raw(source, out), lambda source, out: fingerprint(source)])
def test_a_refusal_does_not_repeat_the_password(shop: Shop, tmp_path: Path, ask) -> None:
    with pytest.raises(GenrecError, match="401") as caught:
        ask(shop.at("locked/shop.zip?token=abc123", "joe:wr0ng-pass@"), tmp_path / "out")
    error: BaseException | None = caught.value
    while error is not None:
        assert "wr0ng" not in str(error)
        assert "abc123" not in str(error)
        error = error.__cause__ or error.__context__


def test_a_password_is_not_sent_on_to_where_the_server_points(shop: Shop, tmp_path: Path) -> None:
    receive_raw(shop.at("moved/shop.zip", JOE), tmp_path / "out")
    first, second = shop.seen
    assert first[2] is not None
    assert second == ("GET", "/shop.zip", None)


def test_a_server_that_points_to_another_protocol_is_not_followed(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(GenrecError, match=r"cannot be downloaded .*ftp"):
        receive_raw(shop.at("file/shop.zip"), tmp_path / "out")


@pytest.mark.parametrize("told", [None, -1])
def test_a_download_without_end_is_cut_off(
    shop: Shop, tmp_path: Path, told: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the server says how much comes or not."""
    monkeypatch.setattr(archive, "_LARGEST_DOWNLOAD", 100)
    shop.told_bytes = told
    with pytest.raises(GenrecError, match="more than 100 bytes"):
        receive_raw(shop.at("shop.zip"), tmp_path / "out")


def test_the_name_in_an_address_is_no_path(shop: Shop, tmp_path: Path) -> None:
    assert receive_raw(shop.at("a/%2e%2e/.."), tmp_path / "out")["users"] == 200
