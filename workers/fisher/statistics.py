"""What is known of each module's sensitivity, and the KL that an error of its weight costs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from bitbudget.app.core.measurement import KvCurve
from bitbudget.workers.fisher.symmetric import packed, unpacked

__all__ = ["KroneckerTerm", "ModuleStatistics", "Statistics", "steadied"]

_FEW_TOKENS: Final = 0.25
"""An expert's own second moment counts as much as the pooled one at this many tokens per input."""
_FEW_FOR_COLUMNS: Final = 1.0
_FEW_FOR_ROWS: Final = 4.0
"""What the two factors hold off their diagonals counts half at this many tokens per input and per
output: codes fit what a few tokens happen to link, which other tokens do not."""


@dataclass(frozen=True, slots=True)
class KroneckerTerm:
    """One Kronecker factor pair of the Fisher information, in nats per token.

    `columns` is A, float32 (..., in, in), of trace one; `rows` is B (..., out, out), or only its
    diagonal (..., out) where the whole would be too large. B's trace is the trace of the Fisher
    information per token of text: an expert's is weighted with its share of the tokens. Leading
    axes are experts.
    """

    columns: np.ndarray
    rows: np.ndarray

    def part(self, index: tuple[int, ...]) -> KroneckerTerm:
        """Return the factors of one expert; `()` is all of them."""
        return KroneckerTerm(self.columns[index], self.rows[index]) if index else self

    @property
    def row_trace(self) -> np.ndarray:
        """The sum of B_ii, float32 (...)."""
        is_full = self.rows.ndim == self.columns.ndim
        sums = np.trace(self.rows, axis1=-2, axis2=-1) if is_full else self.rows.sum(-1)
        return np.asarray(sums, np.float32)

    def kl_nats(self, error: np.ndarray) -> float:
        """Return 1/2 tr(B dW A dW^T) for a weight error of shape (..., out, in)."""
        lead = error.shape[:-2]
        total = 0.0
        for index in np.ndindex(*lead):
            total += _quadratic(error[index], self.columns[index], self.rows[index])
        return 0.5 * total


def _quadratic(error: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> float:
    right = error @ columns
    if rows.ndim == 1:
        return float(np.einsum("ij,ij->i", right, error).astype(np.float64) @ rows)
    return float(np.einsum("ij,ij->", rows @ error, right, dtype=np.float64))


@dataclass(frozen=True, slots=True)
class ModuleStatistics:
    """Sensitivity of one module.

    `alpha_nats` is the KL per token that one unit of t2 costs, were the error isotropic.
    `row_sums` (..., out) and `column_sums` (..., in) are sums of the squared gradient, the rank-one
    diagonal Fisher. `tokens` counts what reached the module: shape () or (experts,).
    An embedding that is also the head has two terms, the lookup's last.
    `rounding` (..., in) is E[|g|^2 dx_i^2] per token of text, dx the error of rounding the input x
    to int8 in groups of 128 channels and g the gradient of the output; None where the calls of a
    module cannot be recorded, and of a head, whose `rounding_nats` is what all that costs.
    """

    path: str
    alpha_nats: float
    row_sums: np.ndarray
    column_sums: np.ndarray
    terms: tuple[KroneckerTerm, ...]
    tokens: np.ndarray
    rounding: np.ndarray | None = None
    rounding_nats: float | None = None

    @property
    def is_seen(self) -> bool:
        """Whether any gradient reached the module: an encoder has something to work against."""
        return bool(self.terms) and self.alpha_nats > 0

    def kl_nats(self, error: np.ndarray) -> float:
        """Return the predicted KL in nats per token of adding `error` (float32) to the weight."""
        return sum(term.kl_nats(error) for term in self.terms)

    def plus(self, other: ModuleStatistics) -> ModuleStatistics:
        """Return both uses of one weight together, their interaction neglected."""
        return ModuleStatistics(
            self.path,
            self.alpha_nats + other.alpha_nats,
            self.row_sums + other.row_sums,
            self.column_sums + other.column_sums,
            (*self.terms, *other.terms),
            self.tokens + other.tokens,
            self.rounding if other.rounding is None else other.rounding,
            self.rounding_nats if other.rounding_nats is None else other.rounding_nats,
        )

    @property
    def second_moment(self) -> np.ndarray:
        """The input-side matrix (..., in, in) that a compensating encoder works against.

        The terms' columns weighted with the trace of their rows, pulled towards the diagonal where
        tokens were few; an expert that saw few is pulled towards the mean of all experts before,
        and gets that mean when it saw none.
        """
        total = np.zeros_like(self.terms[0].columns, np.float32)
        for term in self.terms:
            total += term.columns * term.row_trace[..., None, None]
        if total.ndim == 2:  # noqa: PLR2004 - a matrix, not a stack of experts
            return steadied(total, float(self.tokens), _FEW_FOR_COLUMNS)
        return _pooled(total, self.tokens)

    def feedback_rows(self, index: tuple[int, ...]) -> np.ndarray:
        """The output-side matrix (out, out) that an encoder works against, or its diagonal (out,).

        Of one expert, or of the whole for `()`; pulled towards its diagonal, the more the fewer
        tokens it saw.
        """
        rows: np.ndarray = self.terms[0].part(index).rows
        if rows.ndim == 1:
            return rows
        return steadied(rows.copy(), float(self.tokens[index]), _FEW_FOR_ROWS)

    def expert_moments(
        self, experts: Collection[tuple[int, ...]]
    ) -> dict[tuple[int, ...], np.ndarray]:
        """Return `second_moment` of some experts of a stack, without making that of all.

        What it holds beside the statistics is those and a few matrices (in, in).
        """
        weights = [term.row_trace for term in self.terms]

        def own(index: tuple[int, ...]) -> np.ndarray:
            pairs = zip(self.terms, weights, strict=True)
            return np.asarray(sum(term.columns[index] * by[index] for term, by in pairs))

        pairs = zip(self.terms, weights, strict=True)
        traces = sum(np.trace(term.columns, axis1=-2, axis2=-1) * by for term, by in pairs)
        traces = np.asarray(traces)
        width = self.terms[0].columns.shape[-1]
        share = np.where((self.tokens > 0) & (traces > 0), self.tokens, 0).astype(np.float32)
        if not share.any():
            return {index: np.eye(width, dtype=np.float32) for index in experts}
        mean = np.zeros((width, width), np.float32)
        for index in zip(*np.nonzero(share), strict=True):
            mean += own(index) * (share[index] / share.sum() / traces[index])
        own_share = share / (share + np.float32(_FEW_TOKENS * width))
        noise = own_share**2 / np.maximum(share, 1) + (1 - own_share) ** 2 / share.sum()
        found = {}
        for index in experts:
            kept = own_share[index]
            mixed = (1 - kept) * mean
            if kept:
                mixed += own(index) * np.float32(kept / traces[index])
            found[index] = steadied(mixed, float(1 / noise[index]), _FEW_FOR_COLUMNS)
        return found


def steadied(moment: np.ndarray, tokens: float, few: float) -> np.ndarray:
    """Make the elements of a matrix (n, n) off its diagonal count less where tokens are few.

    `tokens` is how many it is a mean of; at `few` times n of them these elements count half.
    """
    share = tokens / max(tokens + few * len(moment), 1e-30)
    diagonal = np.diagonal(moment).copy()
    moment *= np.float32(share)
    np.fill_diagonal(moment, diagonal)
    return moment


def _pooled(moments: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return `moments` (experts, in, in), scaled to trace one, shrunk towards their mean."""
    traces = np.trace(moments, axis1=-2, axis2=-1)
    seen = (tokens > 0) & (traces > 0)
    width = moments.shape[-1]
    if not seen.any():
        return np.broadcast_to(np.eye(width, dtype=np.float32), moments.shape).copy()
    unit = moments / np.where(seen, traces, 1)[:, None, None]
    share = np.where(seen, tokens, 0).astype(np.float32)
    mean = np.einsum("e,eij->ij", share / share.sum(), unit)
    own = share / (share + np.float32(_FEW_TOKENS * width))
    noise = own**2 / np.maximum(share, 1) + (1 - own) ** 2 / share.sum()
    pooled = [
        steadied(weight * moment + (1 - weight) * mean, float(1 / variance), _FEW_FOR_COLUMNS)
        for weight, moment, variance in zip(own, unit, noise, strict=True)
    ]
    return np.asarray(pooled, np.float32)


@dataclass(frozen=True, slots=True)
class Statistics(Mapping[str, ModuleStatistics]):
    """Statistics of every module by path, read from disk one module at a time when `files` are set.

    `tokens` is how many tokens were used, `text` those themselves, int32 (sequences, length);
    `notes` what a reader must know (diagonal factors, ...).
    `kv_curves` are those of the caches that the model's plain attention layers keep.
    """

    tokens: int
    modules: Mapping[str, ModuleStatistics] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    kv_curves: tuple[KvCurve, ...] = ()
    text: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def paths(self) -> frozenset[str]:
        """Every module's path, without reading anything."""
        return frozenset(self.modules) | frozenset(self.files)

    def without(self, paths: Collection[str]) -> Statistics:
        """Return the statistics of the other modules."""
        return self._some(self.paths.difference(paths))

    def only(self, paths: Collection[str]) -> Statistics:
        """Return the statistics of those of these modules that have any, without the text.

        Files are at absolute paths: another process finds them from anywhere.
        """
        some = self._some(self.paths.intersection(paths))
        files = {path: file.absolute() for path, file in some.files.items()}
        return replace(some, files=files, text=None)

    def _some(self, paths: Collection[str]) -> Statistics:
        modules = {path: entry for path, entry in self.modules.items() if path in paths}
        files = {path: file for path, file in self.files.items() if path in paths}
        return replace(self, modules=modules, files=files)

    def __getitem__(self, path: str) -> ModuleStatistics:
        if path in self.modules:
            return self.modules[path]
        return read_module(self.files[path], path)

    def __iter__(self) -> Iterator[str]:
        yield from self.modules
        yield from self.files

    def __len__(self) -> int:
        return len(self.modules) + len(self.files)


def write_modules(file: Path, modules: Iterable[ModuleStatistics]) -> None:
    """Write the statistics of some modules to one .npz file, whole or not at all."""
    arrays: dict[str, np.ndarray] = {}
    for module in modules:
        path = module.path
        arrays[f"{path}|alpha"] = np.asarray(module.alpha_nats)
        arrays[f"{path}|row_sums"] = module.row_sums
        arrays[f"{path}|column_sums"] = module.column_sums
        arrays[f"{path}|tokens"] = module.tokens
        if module.rounding is not None:
            arrays[f"{path}|rounding"] = module.rounding
        if module.rounding_nats is not None:
            arrays[f"{path}|rounding_nats"] = np.asarray(module.rounding_nats)
        for index, term in enumerate(module.terms):
            arrays[f"{path}|columns{index}"] = packed(term.columns)
            if term.rows.ndim == term.columns.ndim:
                arrays[f"{path}|rows{index}"] = packed(term.rows)
            else:
                arrays[f"{path}|diagonal{index}"] = term.rows
    partial = file.with_suffix(".partial.npz")
    np.savez(partial, allow_pickle=False, **arrays)
    partial.replace(file)


def module_paths(file: Path) -> tuple[str, ...]:
    """Return the paths of the modules in a file of `write_modules`."""
    with np.load(file) as data:
        return tuple(name.removesuffix("|alpha") for name in data.files if name.endswith("|alpha"))


def read_module(file: Path, path: str) -> ModuleStatistics:
    """Read one module from a file of `write_modules`; KeyError when it is not there."""
    with np.load(file) as data:
        count = sum(name.startswith(f"{path}|columns") for name in data.files)
        row_sums, column_sums = data[f"{path}|row_sums"], data[f"{path}|column_sums"]
        terms = []
        for index in range(count):
            columns = unpacked(data[f"{path}|columns{index}"], column_sums.shape[-1])
            name = f"{path}|rows{index}"
            if name in data.files:
                rows = unpacked(data[name], row_sums.shape[-1])
            else:
                rows = data[f"{path}|diagonal{index}"]
            terms.append(KroneckerTerm(columns, rows))
        alpha, tokens = float(data[f"{path}|alpha"]), data[f"{path}|tokens"]
        named = (f"{path}|rounding", f"{path}|rounding_nats")
        rounding, nats = (data[name] if name in data.files else None for name in named)
        return ModuleStatistics(
            path,
            alpha,
            row_sums,
            column_sums,
            tuple(terms),
            tokens,
            rounding,
            None if nats is None else float(nats),
        )
