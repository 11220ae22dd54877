"""The benchmark of a CUDA device: dry runs on the CPU."""

import json
from pathlib import Path

import pytest
import torch

from genrec_core.errors import GenrecError
from tests.benchmarks import __main__ as command
from tests.benchmarks import gpu, gpu_parts


@pytest.fixture
def job() -> gpu_parts.Job:
    return gpu_parts.Job(artifacts=None, device="cpu", epochs=1, items=500)


def test_without_a_gpu_nothing_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(GenrecError, match="no CUDA device: nothing was checked"):
        gpu.run()


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(GenrecError, match="parts speed: no such part; choose some of same, tests"):
        gpu.run(device="cpu", parts=["speed"])


@pytest.mark.parametrize(
    "part", [gpu_parts.same, gpu_parts.training, gpu_parts.rates, gpu_parts.million, gpu_parts.quantizer]
)
def test_a_dry_run_of_each_part_gives_figures(
    part: gpu_parts.Part, job: gpu_parts.Job, capsys: pytest.CaptureFixture[str]
) -> None:
    part(job)
    figures = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert figures
    assert not [name for figure in figures for name, values in figure.items() if "error" in values]


def test_a_part_that_fails_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = command.main(["gpu", "--device", "cpu", "--parts", "quantizer", "--artifacts", str(tmp_path)])
    figures = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert code == 1
    assert figures["failed"] == ["quantizer"]
    assert figures["quantizer"]["failed"] == ["kmeans"]
    assert figures["quantizer"]["kmeans"]["error"].startswith("GenrecError")


def test_a_part_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu.PARTS, "same", 1)
    figures = gpu.run(device="cpu", parts=["same"])
    assert "ended with code -9" in figures["same"]["failed"][0]
