"""numpy's matrix products on one thread, and only as long as that is asked for."""

import numpy as np  # noqa: F401  (its BLAS is what is limited)
from threadpoolctl import threadpool_info, threadpool_limits

from samed_hf.utils.threads import single_threaded_blas


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_blas_is_limited_inside_the_context_alone():
    with threadpool_limits(limits=2, user_api="blas"):
        with single_threaded_blas():
            assert blas_threads() == {1}
        assert blas_threads() == {2}
