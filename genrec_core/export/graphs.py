"""Writes torch modules as ONNX graphs."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from genrec_core.errors import GenrecError


def export_graph(
    module: nn.Module, inputs: dict[str, Tensor], dynamic: tuple[Any, ...], outputs: list[str], path: Path
) -> None:
    """Trace ``module``, which is put into evaluation mode, and write it as one ONNX file.

    Args:
        module: what is traced.
        inputs: example inputs by name, in the order of the module's arguments.
        dynamic: names of the dynamic axes of each input, by axis.
        outputs: names.
        path: the file to write.

    Raises:
        GenrecError: torch made no graph of it.
    """
    # The fused attention kernel of the CPU has strides that the exporter cannot view, so the plain one is traced.
    with sdpa_kernel(SDPBackend.MATH), without_advice():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=dynamic,
            verbose=False,
        )
    if program is None:
        raise GenrecError(f"{path}: torch.onnx gave no program; install the pinned torch, onnx and onnxscript")
    program.save(path)


@contextmanager
def without_advice() -> Iterator[None]:
    """Silence the warnings of torch's exporter and onnxruntime's quantiser: a user can do nothing about them."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="# The axis name", category=UserWarning)
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec", category=FutureWarning)
            yield
    finally:
        logging.disable(level)
