"""Limit of the threads of numpy's matrix products."""

from __future__ import annotations

from threadpoolctl import threadpool_limits

__all__ = ["single_threaded_blas"]


def single_threaded_blas() -> threadpool_limits:
    """A context manager in which numpy's matrix products, which zoom the slices, run on one thread.

    The products are small and don't gain from several threads, which compete with PyTorch's threads: on two cores,
    training on small slices took almost three times as long. On exit the earlier limits are restored.
    """
    return threadpool_limits(limits=1, user_api="blas")
