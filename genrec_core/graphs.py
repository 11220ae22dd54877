"""Opens ONNX graphs, and compares what graphs compute with stored answers."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

from genrec_core.cores import available_cores
from genrec_core.errors import GenrecError

_SLOW_FUSION = "SkipLayerNormFusion"  # its kernel takes seven times as long as the two that it replaces
SELF_TEST = "self_test.npz"
LARGEST_ERROR = 0.01  # of the answers' range; Beauty's weights of 8 bits that saturate without VNNI were 0.04 off


def open_graph(path: Path, threads: int | None) -> ort.InferenceSession:
    """Open an ONNX graph on the CPU; ``threads`` work on an operator, None for all cores of this process."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # polling threads slow other processes
    try:
        return ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=[_SLOW_FUSION]
        )
    except Exception as error:  # onnxruntime raises many types of its own, without a common base
        raise GenrecError(f"{path}: onnxruntime cannot open it ({error}); export it again") from error


def read_self_test(folder: Path, names: tuple[str, ...]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The inputs of a stored test by name, and its answers float32."""
    try:
        with np.load(folder / SELF_TEST, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}, stored["answers"]
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise GenrecError(f"{folder / SELF_TEST}: cannot be read ({error}); export the model again") from error


def require_same_answers(folder: Path, stored: np.ndarray, computed: np.ndarray) -> None:
    """Refuse answers that differ from the ``stored`` ones by more than ``LARGEST_ERROR`` of the range of these."""
    error = float(np.abs(computed - stored).max() / np.ptp(stored))
    if not error <= LARGEST_ERROR:  # NaN is refused too
        raise GenrecError(
            f"{folder}: on this processor the model does not compute the answers that its export stored: they differ "
            f"by {error:.1%} of their range, {LARGEST_ERROR:.0%} is allowed; export it again, without int8 if it had it"
        )
