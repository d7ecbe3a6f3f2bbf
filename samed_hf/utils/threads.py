"""Limit of the threads of numpy's matrix products."""

from __future__ import annotations

from threadpoolctl import threadpool_limits

__all__ = ["single_threaded_blas"]


def single_threaded_blas() -> threadpool_limits:
    """A context manager in which numpy's matrix products, which zoom the slices, run on one thread.

    Several threads compete with PyTorch's: training on small slices took almost three times as long on two cores.
    """
    return threadpool_limits(limits=1, user_api="blas")
