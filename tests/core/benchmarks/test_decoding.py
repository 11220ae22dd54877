"""The decoding benchmark on a tiny exported model."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from genrec_core.benchmarks import decoding
from genrec_core.errors import GenrecError

if TYPE_CHECKING:
    from conftest import TinyModel


def test_every_beam_width_is_timed(tiny_model: "TinyModel") -> None:
    found = decoding.run(tiny_model.model_dir, beams=(20, 5), users=6, repeats=2, threads=1)
    found = json.loads(json.dumps(found))
    assert list(found["users_per_second"]) == ["5", "20"]
    for rate in found["users_per_second"].values():
        assert rate["repeats"] == 2
        assert 0 < rate["least"] <= rate["median"] <= rate["most"]
    assert 0 < found["peak_mb"]["5"] <= found["peak_mb"]["20"]
    assert (found["items"], found["users"], found["threads"]) == (90, 6, 1)


def test_without_a_model_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_STORAGE", str(tmp_path))
    with pytest.raises(GenrecError, match="onnx_encoder was never built"):
        decoding.run()
