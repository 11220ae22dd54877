"""Matrix products take one thread while lists are decoded side by side, and what was set before afterwards."""

from concurrent.futures import ThreadPoolExecutor

from threadpoolctl import ThreadpoolController

from genrec_core.inference.blas_threads import one_blas_thread


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in ThreadpoolController().select(user_api="blas").info()}


def inside() -> set[int]:
    with one_blas_thread():
        return blas_threads()


def test_the_setting_holds_in_every_thread_and_comes_back_when_the_first_block_ends():
    with ThreadpoolController().limit(limits=2, user_api="blas"), ThreadPoolExecutor(1) as pool:
        with one_blas_thread():
            assert pool.submit(inside).result() == {1}
            assert pool.submit(blas_threads).result() == {1}
        assert blas_threads() == {2}
