"""The script behind ``make bench``, over a ``genrec`` command that answers at once."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ANSWERS = """#!/bin/sh
machine='"machine": {"cpu": "some cpu", "cores": 2, "memory_gb": 8.0, "load_average": 0.1}'
common="$machine, \\"versions\\": {\\"python\\": \\"3.11\\"}, \\"commit\\": \\"abc\\""
rate='{"median": 20.5, "least": 19.0, "most": 1021.0, "repeats": 3}'
[ "$1 $3" = "bench --json" ] || exit 9
case "$2" in
  graph) [ -e "$(dirname "$0")/ran" ] || { echo "no run is recorded" >&2; exit 1; }
    echo "{\\"benchmark\\": \\"graph\\", \\"asset_seconds\\": {\\"raw_beauty\\": 1.5}, \\"peak_mb\\": 900,
      \\"run_id\\": \\"r\\", \\"status\\": \\"SUCCESS\\", $common}" ;;
  train) echo "{\\"benchmark\\": \\"training\\", \\"preset\\": \\"beauty\\", \\"processes\\": 1, \\"threads\\": 2,
      \\"targets_per_second\\": $rate, \\"original_targets_per_second\\": $rate, \\"ratio_original\\": 30.04,
      \\"limit_share\\": 0.25, \\"matrix_gflops\\": 310.2, \\"peak_mb\\": 500.5, $common}" ;;
  decode) echo "{\\"benchmark\\": \\"decoding\\", \\"histories\\": \\"random\\",
      \\"threads\\": 2, \\"users_per_second\\": {\\"10\\": $rate},
      \\"single_ms_spread\\": {\\"10\\": $rate}, \\"ratio_uncached\\": {\\"10\\": 2.5}, \\"ratio_original\\": 7.5,
      \\"ratio_generate\\": 18.0, \\"limit_share\\": {\\"10\\": 0.55}, \\"matrix_gflops\\": 190.0,
      \\"peak_mb\\": {\\"10\\": 300.5}, $common}" ;;
  server) echo "{\\"benchmark\\": \\"server\\", \\"histories\\": \\"random\\",
      \\"clients\\": 16, \\"top_k\\": 100, \\"users_per_s\\": 300.5,
      \\"batch_users_per_s\\": $rate, \\"share_of_batch\\": 0.75, \\"p50_ms\\": 50.0, \\"p99_ms\\": 90.5,
      \\"errors\\": 0, \\"first_answer_s\\": 1.5, \\"peak_mb\\": 400.0, $common}" ;;
  trie) echo "{\\"benchmark\\": \\"trie\\", \\"bytes_per_item\\": 10.74, \\"build_s\\": 6.1,
      \\"peak_mb\\": 1058.0, \\"ten_children_a_prefix\\": {\\"step_ratio\\": $rate},
      \\"random_3x256\\": {\\"step_ratio\\": $rate}, $common}" ;;
esac
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    command = tmp_path / "genrec"
    command.write_text(ANSWERS)
    command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    spec = spec_from_file_location("benchmarks_run", Path(__file__).with_name("run.py"))
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    return int(script.main())


def test_figures_are_printed_and_appended(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ran").touch()
    results = tmp_path / "RESULTS.md"
    results.write_text("# Results\n")
    assert run(script, monkeypatch, "--append", str(results)) == 0
    printed = capsys.readouterr().out
    assert "commit abc" in printed
    assert "| graph | raw_beauty, seconds | 1.5 |" in printed
    where = "preset beauty, 1 process, 2 threads"
    assert f"| training | targets a second ({where}) | 20.5 (19.0 to 1,021.0 of 3) |" in printed
    assert "| decoding | users a second, 10 beams (2 threads) | 20.5 (19.0 to 1,021.0 of 3) |" in printed
    assert "| training | ratio to the original's way | 30.0 |" in printed
    assert "| server | share of that | 75% |" in printed
    assert "| server | p50, p99, ms | 50.0, 90.5 |" in printed
    assert "| trie | bytes an item | 10.74 |" in printed
    assert "| trie | step, largest over smallest catalogue | 20.5 (19.0 to 1,021.0 of 3) |" in printed
    assert "| training | share of the machine's matrix rate | 25% of 310 GFLOP/s |" in printed
    assert "| decoding | one user, top 10, ms | 20.5 (19.0 to 1,021.0 of 3); 2.5 x a first version" in printed
    assert "| decoding | top 128 of 256 beams, against the original's way | 7.5 x |" in printed
    assert "| decoding | peak memory, MB | 300.5 |" in printed
    assert results.read_text() == "# Results\n\n" + printed.removesuffix("\n")


def test_one_that_fails_is_named_and_the_others_are_still_measured(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(script, monkeypatch) == 1
    output = capsys.readouterr()
    assert "graph: `bench graph --json` ended with 1" in output.err
    assert "| training |" in output.out
    assert "| graph |" not in output.out


def test_an_unknown_name_is_refused(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(script, monkeypatch, "speed")
    assert "no benchmark speed; choose of graph, train, decode, server, trie" in capsys.readouterr().err
