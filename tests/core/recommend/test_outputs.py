"""What is no regular file is written into, and never replaced: a device, a pipe, and a link to a file."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from genrec_core.cli.main import main
from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import atomic_file

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel

linux = pytest.mark.skipif(sys.platform != "linux", reason="pipes, devices and descriptors as Linux names them")
ROWS = "user_id,pred_1,pred_2\n"


def predict(model: "TinyModel", folder: Path, output: str, lines: str = "anna 1\nbert x\n") -> list[str]:
    """The arguments of a run over ``lines``, of which the second is malformed."""
    (folder / "requests.txt").write_text(lines)
    paths = ["--input_path", str(folder / "requests.txt"), "--output_path", output]
    return ["predict", "--model_dir", str(model.model_dir), *paths, "--topk", "2", "--threads", "1"]


@linux
def test_a_pipe_gets_the_rows_and_stays(
    tiny_model: "TinyModel", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    assert main(predict(tiny_model, tmp_path, str(pipe))) == 0
    reader.join(30)
    assert pipe.is_fifo()
    assert read[0].startswith(ROWS + "anna,")
    assert not (tmp_path / "pipe.rejected").exists()
    assert "1 malformed lines were not served: write to a file to see them" in capsys.readouterr().err


@linux
def test_requests_that_are_all_malformed_are_told_of_in_a_sentence(
    tiny_model: "TinyModel", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(predict(tiny_model, tmp_path, "/dev/null", "bert x\n")) == 2
    assert capsys.readouterr().err.strip().endswith("; write to a file to see them")
    assert main(predict(tiny_model, tmp_path, str(tmp_path / "out.csv"), "bert x\n")) == 2
    assert capsys.readouterr().err.strip().endswith(f"; see {tmp_path / 'out.csv.rejected'}")


@linux
def test_a_device_stays_a_device(tiny_model: "TinyModel", tmp_path: Path) -> None:
    null = tmp_path / "null"  # not the machine's own
    try:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        null.write_text("")
    except OSError as error:
        pytest.skip(f"this user may not make a device here: {error}")
    assert main(predict(tiny_model, tmp_path, str(null))) == 0
    assert null.is_char_device()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["null", "requests.txt"]


@linux
def test_standard_output_gets_the_rows_alone(tiny_model: "TinyModel", tmp_path: Path) -> None:
    command = [sys.executable, "-m", "genrec_core.cli", *predict(tiny_model, tmp_path, "/dev/stdout")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["user_id", "anna"]
    assert "1 users served" in done.stderr


@linux
def test_a_file_behind_standard_output_keeps_what_is_written_around_the_rows(
    tiny_model: "TinyModel", tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "genrec_core.cli", *predict(tiny_model, tmp_path, "/dev/stdout")]
    with (tmp_path / "log").open("wb") as log:
        subprocess.run(["sh", "-c", 'echo before; "$@"; echo after', "sh", *command], stdout=log, check=True)
        assert os.fstat(log.fileno()).st_ino == (tmp_path / "log").stat().st_ino
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["before", "user_id", "anna", "after"]
    assert not Path("/dev/stdout.rejected").exists()


@linux
@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}", "/proc/thread-self/fd/{}", "link"])
def test_a_file_behind_a_descriptor_is_written_into(tiny_model: "TinyModel", tmp_path: Path, name: str) -> None:
    with (tmp_path / "log").open("w") as log:
        log.write("before\n")
        log.flush()
        (tmp_path / "link").symlink_to(f"/dev/fd/{log.fileno()}")
        output = str(tmp_path / name.format(log.fileno()))
        assert main([*predict(tiny_model, tmp_path, output), "--quiet"]) == 0
        log.write("after\n")
    assert [line.split(",")[0] for line in (tmp_path / "log").read_text().splitlines()] == [
        *("before", "user_id", "anna", "after")
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "log", "requests.txt"]


@linux
def test_a_file_behind_another_process_is_appended_to(tiny_model: "TinyModel", tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    with (tmp_path / "log").open("a") as log, subprocess.Popen(["sleep", "60"], stdout=log) as other:
        code = main([*predict(tiny_model, tmp_path, f"/proc/{other.pid}/fd/1"), "--quiet"])
        other.kill()
    assert code == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["before", "user_id", "anna"]


@linux
def test_a_reader_that_goes_away_is_an_error_in_one_line(tiny_model: "TinyModel", tmp_path: Path) -> None:
    lines = "".join(f"user{number} 1\n" for number in range(20_000))
    command = [sys.executable, "-m", "genrec_core.cli", *predict(tiny_model, tmp_path, "/dev/stdout", lines), "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 2
    assert said == "genrec: error: /dev/stdout: cannot be written (Broken pipe)\n"


def test_a_link_stays_and_the_file_behind_it_is_written(tiny_model: "TinyModel", tmp_path: Path) -> None:
    for name in ("lists.csv", "lists.csv.rejected"):
        (tmp_path / name).symlink_to(tmp_path / "elsewhere" / name)
    output = str(tmp_path / "lists.csv")
    assert main(predict(tiny_model, tmp_path, output)) == 0
    assert (tmp_path / "lists.csv").is_symlink()
    assert (tmp_path / "elsewhere" / "lists.csv").read_text().startswith(ROWS + "anna,")
    assert "bert x" in (tmp_path / "elsewhere" / "lists.csv.rejected").read_text()
    assert main(predict(tiny_model, tmp_path, output, "anna 1\n")) == 0
    assert (tmp_path / "lists.csv.rejected").is_symlink()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["lists.csv"]


@linux
def test_a_device_behind_the_name_of_the_rejected_file_stays(tiny_model: "TinyModel", tmp_path: Path) -> None:
    (tmp_path / "lists.csv.rejected").symlink_to("/dev/null")
    for lines in ("anna 1\n", "anna 1\nbert x\n"):
        assert main(predict(tiny_model, tmp_path, str(tmp_path / "lists.csv"), lines)) == 0
        assert stat.S_ISCHR((tmp_path / "lists.csv.rejected").stat().st_mode)


def test_a_folder_in_the_way_of_the_rejected_file_is_refused_before_any_work(
    tiny_model: "TinyModel", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lists.csv.rejected").mkdir()
    assert main(predict(tiny_model, tmp_path, str(tmp_path / "lists.csv"))) == 2
    assert "lists.csv.rejected: is a folder" in capsys.readouterr().err
    assert not (tmp_path / "lists.csv").exists()


@linux
def test_parquet_is_not_written_into_a_pipe(
    tiny_model: "TinyModel", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe.parquet")
    assert main(predict(tiny_model, tmp_path, str(tmp_path / "pipe.parquet"))) == 2
    assert "is no regular file, which Parquet needs; name a file, or write CSV" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pipe.parquet", "requests.txt"]


@linux
def test_a_socket_is_refused(tmp_path: Path) -> None:
    os.mknod(tmp_path / "socket", stat.S_IFSOCK | 0o600)
    with pytest.raises(GenrecError, match="is a disk or a socket"), atomic_file(tmp_path / "socket"):
        pass
    assert (tmp_path / "socket").is_socket()


@linux
@pytest.mark.parametrize(
    "command",
    [
        ["sample", "--output"],
        ["evaluate", "--checkpoint", "x", "--output"],
        ["train", "--output"],
        ["export", "--output"],
        ["export-torchserve", "--out_dir"],
        ["export-text-encoder", "--output"],
        ["assign-ids", "--items", "x", "--output"],
        ["add-items", "--items", "x", "--model_dir", "x", "--output"],
        ["sweep", "x.toml", "--output"],
    ],
)
def test_a_pipe_is_no_folder_to_write(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SystemExit, match="2"):
        main([*command, str(tmp_path / "pipe")])
    assert f"{tmp_path / 'pipe'}: is no folder; name a new one" in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()


def test_a_link_to_a_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "shop").symlink_to(tmp_path / "elsewhere")
    assert main(["sample", "--output", str(tmp_path / "shop"), "--users", "50", "--items", "90"]) == 0
    assert (tmp_path / "shop").is_symlink()
    assert (tmp_path / "elsewhere" / "meta.json.gz").is_file()
