"""Which device and which backend a process of a training gets."""

import pytest
import torch

from genrec_core.tiger.distributed import _device_and_backend


@pytest.mark.parametrize(
    ("gpus", "rank", "processes", "device", "backend"),
    [
        (0, 1, 2, "cpu", "gloo"),
        (2, 1, 2, "cuda:1", "nccl"),
        (1, 1, 2, "cuda:0", "gloo"),  # shared: nccl would refuse it
        (1, 0, 1, "cuda:0", "nccl"),
    ],
)
def test_processes_share_the_gpus_that_there_are(
    monkeypatch: pytest.MonkeyPatch, gpus: int, rank: int, processes: int, device: str, backend: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))

    assert _device_and_backend() == (torch.device(device), backend)
