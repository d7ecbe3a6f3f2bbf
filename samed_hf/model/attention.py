"""Exact attention of the image encoder on a CPU: scores in tiles, windows without padding.

A window at the image's border contains padded tokens. They are zero before the projection, so all have the key and the
value that the projections make of zero. In a softmax they equal a single key whose bias is the logarithm of the sum of
their exponentials. The windows are therefore never padded.

Scores and their softmax are computed for a few heads at a time in memory that stays in the cache. The backward pass
computes them again, so none are stored (as in FlashAttention, arXiv 2205.14135).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import FunctionCtx, once_differentiable

__all__ = ["Windows", "attend", "attend_at_border", "cut_windows", "join_windows"]
__all__ += ["exporting", "graph_for_runtimes", "relative_terms", "runs_in_tiles", "window_groups"]

_TILE_BYTES = 16 * 2**20
"""Bytes of the scores in a tile: about a core's share of the last-level cache. Twice as many in the backward pass."""


def runs_in_tiles(hidden_states: torch.Tensor) -> bool:
    """Whether to use this module's attention: on a CPU, unless the model is being compiled."""
    compiled = torch.compiler.is_compiling() and not exporting()
    return hidden_states.device.type == "cpu" and not (compiled or torch.jit.is_tracing())


_exporting = ContextVar("exporting", default=False)


def exporting() -> bool:
    """Whether the graph that [`graph_for_runtimes`] describes is being traced."""
    return torch.compiler.is_exporting() and _exporting.get()  # in this order for torch.compile, which can't trace get


@contextmanager
def graph_for_runtimes() -> Iterator[None]:
    """Trace this module's attention in few large operations, for any batch size; other exports keep PyTorch's."""
    token = _exporting.set(True)
    try:
        yield
    finally:
        _exporting.reset(token)


class Windows(NamedTuple):
    """Windows of one size."""

    rows: tuple[int, int]  # half-open range of the tokens that all windows cover
    columns: tuple[int, int]
    height: int  # of the real tokens in one window; smaller than the window if it extends over the border
    width: int


def window_groups(height: int, width: int, window_size: int) -> list[list[Windows]]:
    """Group the windows of an image of `height` × `width` tokens by size: rows of groups, from left to right."""

    def spans(length: int) -> list[tuple[tuple[int, int], int]]:
        whole = length // window_size * window_size
        ranges = [((0, whole), window_size), ((whole, length), length - whole)]
        return [(span, size) for span, size in ranges if span[0] < span[1]]

    return [
        [Windows(rows, columns, window_height, window_width) for columns, window_width in spans(width)]
        for rows, window_height in spans(height)
    ]


def cut_windows(tokens: torch.Tensor, windows: Windows, heads: int) -> torch.Tensor:
    """Cut one group: `(batch, height, width, channels)` to `(batch · windows, heads, tokens, head_dim)`."""
    (top, bottom), (left, right), height, width = windows
    tokens = tokens[:, top:bottom, left:right].unflatten(3, (heads, -1))
    tokens = tokens.unflatten(1, (-1, height)).unflatten(3, (-1, width))
    return tokens.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5).flatten(0, 2)


def join_windows(tokens: torch.Tensor, windows: Windows, batch_size: int) -> torch.Tensor:
    """The inverse of [`cut_windows`]: `(batch, rows, columns, channels)`."""
    (top, bottom), (left, right), height, width = windows
    rows, columns = (bottom - top) // height, (right - left) // width
    tokens = tokens.unflatten(0, (batch_size, rows, columns)).unflatten(4, (height, width))
    return tokens.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch_size, bottom - top, right - left, -1)


def relative_terms(
    query: torch.Tensor, rel_pos_h: torch.Tensor, rel_pos_w: torch.Tensor, heads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The decomposed relative position terms of the scores (MViTv2, arXiv 2112.01526).

    From queries `(batch, height, width, channels)` and tables `(2 · size - 1, head_dim)` by the distance of query and
    key, where `size` is the side of a window, or of the image: a term for each row and one for each column of keys,
    each of shape `(batch, height, width, heads · size)`.
    """
    query = query.unflatten(3, (heads, -1))
    of_rows, of_columns = _by_distance(rel_pos_h, query.shape[1]), _by_distance(rel_pos_w, query.shape[2])
    if exporting():  # ONNX Runtime computes Einsum slowly
        rows = query.flatten(2, 3) @ of_rows.mT
        columns = (query.transpose(1, 2).flatten(2, 3) @ of_columns.mT).unflatten(2, (-1, heads)).transpose(1, 2)
        return rows.unflatten(2, (-1, heads)).flatten(3), columns.flatten(3)
    rows = torch.einsum("nhwac,hkc->nhwak", query, of_rows)
    columns = torch.einsum("nhwac,wkc->nhwak", query, of_columns)
    return rows.flatten(3), columns.flatten(3)


def _by_distance(table: torch.Tensor, length: int) -> torch.Tensor:
    """Table entries `(length, size, head_dim)` for each query of an axis and each key of its window."""
    keys = torch.arange((len(table) + 1) // 2, device=table.device)
    queries = torch.arange(length, device=table.device) % len(keys)
    return table[queries[:, None] - keys + len(keys) - 1]


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Attention over a grid of keys, with a term for each row and each column of keys; tensors of any strides.

    Queries and result are `(heads, queries, head_dim)`, keys and values `(heads, height · width, head_dim)`, the terms
    `(heads, queries, height)` and `(heads, queries, width)`.
    """
    if exporting():
        return _attend_in_one_product(query, key, value, rows, columns)
    return _TiledAttention.apply(query, key, value, rows, columns)


def attend_at_border(
    tokens: Sequence[torch.Tensor], grid: tuple[int, int], padding: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Attention in windows that extend over the image's border, with all padded tokens as one key.

    `tokens` are query, key and value of the real tokens, `(batch, heads, height · width, head_dim)`, and the terms of
    the rows and columns of all keys, padded ones included, `(batch, heads, tokens, size)`; `grid` is (height, width),
    `padding` the key and the value of a padded token in each window, `(batch, heads, 1, head_dim)`.
    """
    query, key, value, rows, columns = tokens
    height, width = grid
    parts = []  # beside the real tokens and below them
    if width < columns.shape[-1]:
        parts.append(_log_sum(rows[..., :height]) + _log_sum(columns[..., width:]))
    if height < rows.shape[-1]:
        parts.append(_log_sum(rows[..., height:]) + _log_sum(columns))
    if exporting():  # whose logaddexp exceeds the range of float32
        parts = [_log_sum(torch.cat(parts, dim=-1))]
    padded = (parts[0] if len(parts) == 1 else torch.logaddexp(*parts)).to(query.dtype)
    key, value = (torch.cat([real, pad.to(real.dtype)], dim=2) for real, pad in zip((key, value), padding, strict=True))
    rows, columns = rows[..., :height], columns[..., :width]
    if exporting():
        return _attend_in_one_product(query, key, value, rows, columns, padded)
    bias = torch.cat([(rows[..., None] + columns[..., None, :]).flatten(-2), padded], dim=-1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def _attend_in_one_product(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *terms: torch.Tensor
) -> torch.Tensor:
    """The same for an exported graph, whose runtimes add to the scores slowly.

    The terms of rows, of columns and of the padded key extend the queries, and ones at the keys they apply to extend
    the keys, so that the product of both is the sum.
    """
    height, width = (term.shape[-1] for term in terms[:2])
    rows, columns = torch.eye(height)[:, None].expand(-1, width, -1), torch.eye(width).expand(height, -1, -1)
    ones = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    if len(terms) > 2:
        ones = torch.cat([F.pad(ones, (0, 1)), torch.eye(height + width + 1)[-1:]])
    key = torch.cat([key, ones.expand(*key.shape[:-2], -1, -1)], dim=-1)
    query = torch.cat([query * query.shape[-1] ** -0.5, *terms], dim=-1)
    return (query @ key.mT).softmax(dim=-1) @ value


def _log_sum(terms: torch.Tensor) -> torch.Tensor:
    """Logarithm of the sum of exponentials along the last axis, in float32."""
    return terms.float().logsumexp(dim=-1, keepdim=True)


class _Tiles:
    """The tensors of one call, in tiles of heads and queries."""

    def __init__(
        self, query: torch.Tensor, key: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, buffers: int
    ) -> None:
        self.query, self.key, self.rows, self.columns = query, key, rows, columns
        self.scale = query.shape[-1] ** -0.5
        heads, queries, keys = len(query), query.shape[1], key.shape[1]
        fitting = max(1, _TILE_BYTES // (keys * query.element_size()))
        self.heads = min(heads, max(1, fitting // queries))
        self.queries = min(queries, fitting)
        self.buffers = _workspace(buffers * self.heads * self.queries * keys, query.dtype).view(buffers, -1)

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """The heads and the queries of each tile."""
        for head in range(0, len(self.query), self.heads):
            for first in range(0, self.query.shape[1], self.queries):
                yield slice(head, head + self.heads), slice(first, first + self.queries)

    def buffer(self, number: int, tile: tuple[slice, slice]) -> torch.Tensor:
        """Memory for the scores of a tile, reused by the next one."""
        heads, queries = self.query[tile].shape[:2]
        shape = (heads, queries, self.key.shape[1])
        return self.buffers[number][: heads * queries * shape[2]].view(shape)

    def weights(self, tile: tuple[slice, slice]) -> torch.Tensor:
        """The softmax of the scores, in the first buffer."""
        scores = self.buffer(0, tile)
        rows, columns = self.rows[tile].unsqueeze(-1), self.columns[tile].unsqueeze(-2)
        torch.add(rows, columns, out=scores.unflatten(-1, (rows.shape[-2], -1)))
        scores.baddbmm_(self.query[tile], self.key[tile[0]].transpose(1, 2), alpha=self.scale)
        return torch.softmax(scores, dim=-1, out=scores)


_memory = threading.local()


def _workspace(count: int, dtype: torch.dtype) -> torch.Tensor:
    """A thread's memory for scores, kept because allocating costs more time than the computation in it."""
    size, kept = count * dtype.itemsize, getattr(_memory, "kept", None)
    if kept is None or len(kept) < size:
        with torch.inference_mode(False):  # else training could not write to it
            kept = _memory.kept = torch.empty(size, dtype=torch.uint8)
    return kept[:size].view(dtype)


class _TiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, *tensors: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(*tensors)
        query, key, value, rows, columns = tensors
        context = _like(query)
        with torch.autocast("cpu", enabled=False):
            tiles = _Tiles(query, key, rows, columns, buffers=1)
            for tile in tiles:
                torch.bmm(tiles.weights(tile), value[tile[0]], out=context[tile])
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value, rows, columns = ctx.saved_tensors
        of_query, of_key, of_value = _like(query), _like(key).zero_(), _like(value).zero_()
        of_rows, of_columns = torch.empty_like(rows), torch.empty_like(columns)
        tiles = _Tiles(query, key, rows, columns, buffers=2)
        for tile in tiles:
            heads, arriving = tile[0], gradient[tile]
            weights, scores = tiles.weights(tile), tiles.buffer(1, tile)
            of_value[heads].baddbmm_(weights.transpose(1, 2), arriving)
            torch.bmm(arriving, value[heads].transpose(1, 2), out=scores)
            torch.ops.aten._softmax_backward_data.out(scores, weights, -1, scores.dtype, grad_input=scores)
            torch.baddbmm(of_query[tile], scores, key[heads], beta=0, alpha=tiles.scale, out=of_query[tile])
            of_key[heads].baddbmm_(scores.transpose(1, 2), query[tile], alpha=tiles.scale)
            grid = scores.unflatten(-1, (rows.shape[-1], -1))
            torch.sum(grid, dim=-1, out=of_rows[tile])
            torch.sum(grid, dim=-2, out=of_columns[tile])
        return of_query, of_key, of_value, of_rows, of_columns


def _like(tensor: torch.Tensor) -> torch.Tensor:
    """New memory of the shape `(heads, tokens, head_dim)` and the memory order of a tensor."""
    heads, tokens, head_dim = tensor.shape
    if tensor.stride(0) < tensor.stride(1):
        return tensor.new_empty(tokens, heads, head_dim).transpose(0, 1)
    return tensor.new_empty(heads, tokens, head_dim)
