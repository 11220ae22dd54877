"""Keeps NumPy's matrix products to the calling thread while lists are decoded side by side.

A BLAS library that spreads a product over threads of its own lets them spin for a while afterwards, on cores where
other batches are being decoded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Products of the whole process take one thread inside the block, and as many as before afterwards.

    The thread that entered first decides; blocks that others enter meanwhile change nothing.
    """
    with _blas().limit(limits=1):
        yield


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")
