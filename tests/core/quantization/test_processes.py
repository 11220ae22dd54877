"""Rows dealt to torchrun ranks: every row once, and the same codebooks for any number of ranks."""

import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_core.quantization import kmeans as ranks
from genrec_core.quantization.__main__ import main
from genrec_core.quantization.kmeans import RowShare

WORKER = Path(__file__).with_name("processes_worker.py")


@given(total=st.integers(0, 10_000), world=st.integers(1, 7))
def test_every_row_goes_to_one_rank_in_whole_blocks(total: int, world: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks.dist, "get_world_size", lambda group: world)
        shares = []
        for rank in range(world):
            patch.setattr(ranks.dist, "get_rank", lambda group, rank=rank: rank)
            shares.append(RowShare.of(total, "group"))  # type: ignore[arg-type]  # only asked for rank and size

    assert [share.start for share in shares] == [0, *(share.stop for share in shares[:-1])]
    assert shares[-1].stop == total
    assert all(share.start % ranks.BLOCK_ROWS == 0 or share.start == total for share in shares)


def test_one_rank_sums_nothing() -> None:
    share = RowShare.of(5, None)

    assert share.sum(torch.tensor([1, 2])).tolist() == [1, 2]
    assert share.largest(torch.tensor([])) == 0.0


def test_a_settings_file_that_names_no_setting_of_this_version_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.json").write_text('{"levels": 2, "balance": 1.0}')
    with pytest.raises(SystemExit):
        main([str(tmp_path), str(tmp_path / "ids"), "--settings", str(tmp_path / "settings.json")])
    assert "settings.json: balance: Extra inputs are not permitted" in capsys.readouterr().err.splitlines()[-1]


def test_two_processes_find_what_one_finds_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(WORKER)]
    subprocess.run([*launch, str(tmp_path)], check=True, env=environment, timeout=120)

    spec = spec_from_file_location("processes_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    worker = module_from_spec(spec)
    spec.loader.exec_module(worker)
    alone = worker.everything(None)

    assert len(list(tmp_path.iterdir())) == 2 * len(alone) == 14
    for name, array in alone.items():
        for rank in (0, 1):
            np.testing.assert_array_equal(np.load(tmp_path / f"{name}_rank{rank}.npy"), array, err_msg=name)
