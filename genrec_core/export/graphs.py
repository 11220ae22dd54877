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
    """Trace ``module`` and write it as one ONNX file.

    Args:
        module: put into evaluation mode.
        inputs: example inputs by name, in the order of the module's arguments.
        dynamic: names of the dynamic axes of each input, by axis.
        outputs: names.
        path: the file to write.

    Raises:
        GenrecError: torch made no graph of it.

    The fused attention kernel of the CPU has strides that the exporter's decomposition cannot view, so the plain one is
    traced.
    """
    with sdpa_kernel(SDPBackend.MATH), _without_exporter_chatter():
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
def _without_exporter_chatter() -> Iterator[None]:
    """Silence notes on absent torchvision, renamed axes and torch's own old calls: a user can do nothing about them."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="# The axis name", category=UserWarning)
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)
