"""Clebsch-Gordan products: a matrix per pair of input irreps, a contraction per path, or the non-zero terms only."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geomlib.nn.constants import ExactConstants, on_cpu
from geomlib.nn.tensor_product.irreps import Irrep, Path, offsets, wigner_3j

__all__ = ["CouplingProduct", "DenseCG", "SparseCG", "StackedCG"]


class CouplingProduct(ExactConstants):
    """What the three share: z[out] = Σ_paths weight · coefficient · w3j(x, y).

    Args:
        irreps: of x, y and the output.
        paths: couplings, ordered by (x, y).
        coefficients: factor of each path.
    Inputs:
        x, y: [components, rows], components first.
        weight: [paths, rows], or None for ones.
    Returns: [components, rows]
    """

    def __init__(
        self,
        irreps: tuple[Sequence[Irrep], Sequence[Irrep], Sequence[Irrep]],
        paths: Sequence[Path],
        coefficients: Sequence[float],
    ) -> None:
        super().__init__()
        self.irreps, self.paths = irreps, tuple(paths)
        self.offsets = tuple(offsets(row) for row in irreps)
        self.coefficients = tuple(coefficients)

    def degrees(self, path: Path) -> tuple[int, int, int]:
        """Degrees of the three irreps of a path."""
        x, y, out = self.irreps
        return x[path.x].degree, y[path.y].degree, out[path.out].degree

    def coupling(self, number: int) -> Float[Tensor, "m1 m2 m3"]:
        """Coupling tensor of a path with its coefficient, float64."""
        return self.coefficients[number] * wigner_3j(*self.degrees(self.paths[number]))

    def block(self, which: int, number: int) -> slice:
        """Components of irrep `number` of x (0), y (1) or the output (2)."""
        return slice(self.offsets[which][number], self.offsets[which][number + 1])


@dataclass(frozen=True)
class _Plan:
    """Which products of blocks a stacked product makes, and where what they give belongs.

    Args:
        pairs: numbers of the irreps of x and y that have a path.
        columns: how many numbers each of these pairs gives.
        paths: row of the weight and number of the output block of each path; blocks of y ⊗ x come behind all others.
        dims: components of all irreps of x, y and the output.
        orders: 2 where y ⊗ x is made too.
        out: component of the output, times `orders`, plus the order, of each column.
        weight: row of the weight of each column.
    """

    pairs: tuple[tuple[int, int], ...]
    columns: list[int]
    paths: tuple[tuple[int, int], ...]
    dims: tuple[list[int], list[int], list[int]]
    orders: int
    out: Tensor
    weight: Tensor


class StackedCG(CouplingProduct):
    """For each pair of input irreps one outer product and one matrix product for all their paths.

    Weights act on what the matrix gives, so the cost is that of dense matrix products whatever the number of rows.
    The backward pass keeps the inputs and the unweighted results only, and can be differentiated again.

    Args:
        irreps, paths, coefficients: see `CouplingProduct`.
        both_orders: make y ⊗ x with the same weights too, from the same outer products; x and y have the same irreps
            then, and the result has twice the rows, all of x ⊗ y before all of y ⊗ x.
    """

    @on_cpu
    def __init__(
        self, irreps: Any, paths: Sequence[Path], coefficients: Sequence[float], *, both_orders: bool = False
    ) -> None:
        super().__init__(irreps, paths, coefficients)
        self.both_orders = both_orders
        ends = {(number, False): (path.x, path.y) for number, path in enumerate(self.paths)}
        if both_orders:
            ends |= {(number, True): (path.y, path.x) for number, path in enumerate(self.paths)}
        self._groups: list[tuple[int, int, list[tuple[int, bool]]]] = []
        for (i, j), group in groupby(sorted(ends, key=lambda member: (ends[member], member)), key=ends.__getitem__):
            members = list(group)
            matrix = torch.cat([self._rows(number, swapped) for number, swapped in members])  # [Σ m3, m1·m2]
            self.register_constant(f"matrix_{len(self._groups)}", matrix)
            self._groups.append((i, j, members))
        self._plans: dict[tuple[tuple[int, ...], torch.device], _Plan] = {}

    def _rows(self, number: int, swapped: bool) -> Float[Tensor, "m3 m1_m2"]:
        coupling = self.coupling(number)
        return (coupling.transpose(0, 1) if swapped else coupling).flatten(0, 1).T

    def forward(
        self,
        x: Float[Tensor, "dx rows"],
        y: Float[Tensor, "dy rows"],
        weight: Float[Tensor, "paths rows"] | None,
        active: Sequence[int] | None = None,
    ) -> Float[Tensor, "dz rows_out"]:
        """See `CouplingProduct`; with `active` only these paths are made, and `weight` has a row for each of them."""
        chosen = tuple(range(len(self.paths)) if active is None else active)
        key = chosen, x.device
        if key not in self._plans:
            self._plans.clear()  # paths that change come at every step
            self._plans[key] = self._plan(*key)
        return _Stacked.apply(x, y, weight, self._plans[key], *self._matrices(chosen))

    def _plan(self, active: tuple[int, ...], device: torch.device) -> _Plan:
        position = {number: k for k, number in enumerate(active)}
        orders = 1 + self.both_orders
        dims_x, dims_y, dims_out = ([irrep.dim for irrep in row] for row in self.irreps)
        pairs, columns, paths = [], [], []
        out: list[int] = []
        weight: list[int] = []
        for i, j, members in self._groups:
            before = len(out)
            for number, swapped in members:
                if number in position:
                    end, row = self.paths[number].out, position[number]
                    block = range(self.offsets[2][end], self.offsets[2][end + 1])
                    paths.append((row, end + swapped * len(dims_out)))
                    out += [orders * component + swapped for component in block]
                    weight += [row] * len(block)
            if len(out) > before:
                pairs.append((i, j))
                columns.append(len(out) - before)
        where = (torch.tensor(row, dtype=torch.int64, device=device) for row in (out, weight))
        return _Plan(tuple(pairs), columns, tuple(paths), (dims_x, dims_y, dims_out), orders, *where)

    def _matrices(self, active: tuple[int, ...]) -> list[Tensor]:
        """Rows of each matrix that belong to `active` paths."""
        chosen, found = set(active), []
        for position, (_, _, members) in enumerate(self._groups):
            matrix, numbers = self.get_buffer(f"matrix_{position}"), [number for number, _ in members]
            if all(number in chosen for number in numbers):
                found.append(matrix)
            elif any(number in chosen for number in numbers):
                blocks = matrix.split([self.irreps[2][self.paths[number].out].dim for number in numbers])
                found.append(torch.cat([b for b, number in zip(blocks, numbers, strict=True) if number in chosen]))
        return found

    def flops(self) -> int:
        """Floating-point operations a row."""
        total = 0
        for i, j, members in self._groups:
            entries = self.irreps[0][i].dim * self.irreps[1][j].dim
            columns = sum(self.irreps[2][self.paths[number].out].dim for number, _ in members)
            total += entries + 2 * entries * columns + 2 * columns
        return total


class _Stacked(torch.autograd.Function):
    """z = Σ_pairs Σ_paths w · M (x ⊗ y); its backward is made of operations that autograd knows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, weight: Tensor | None, plan: _Plan, *matrices: Tensor) -> Tensor:
        columns = x.new_empty(sum(plan.columns), x.shape[1])
        xs, ys = x.split(plan.dims[0]), y.split(plan.dims[1])
        for (i, j), matrix, part in zip(plan.pairs, matrices, columns.split(plan.columns), strict=True):
            torch.mm(matrix, (xs[i].unsqueeze(1) * ys[j].unsqueeze(0)).flatten(0, 1), out=part)
        z = x.new_zeros(sum(plan.dims[2]), plan.orders, x.shape[1])
        blocks = [block for part in z.unbind(1) for block in part.split(plan.dims[2])]
        weights = None if weight is None else weight.unbind(0)
        parts = columns.split([len(blocks[out]) for _, out in plan.paths])
        for (row, out), part in zip(plan.paths, parts, strict=True):
            if weights is None:
                blocks[out].add_(part)
            else:
                blocks[out].addcmul_(part, weights[row])
        ctx.plan, ctx.matrices, ctx.weighted = plan, matrices, weight is not None
        ctx.save_for_backward(x, y, *([] if weight is None else [weight, columns]))
        return z.flatten(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan, matrices = ctx.plan, ctx.matrices
        x, y, *rest = ctx.saved_tensors
        weight, kept = rest if ctx.weighted else (None, None)
        again = torch.is_grad_enabled()  # a second derivative is asked for: `kept` has no history then
        grad = grad.reshape(-1, x.shape[1])
        xs, ys = x.split(plan.dims[0]), y.split(plan.dims[1])
        dx: list[Tensor | None] = [None] * len(xs)
        dy: list[Tensor | None] = [None] * len(ys)
        dw = torch.zeros_like(weight) if weight is not None and ctx.needs_input_grad[2] else None
        outs, rows = plan.out.split(plan.columns), plan.weight.split(plan.columns)
        parts = [None] * len(outs) if kept is None else kept.split(plan.columns)
        for (i, j), matrix, out, row, part in zip(plan.pairs, matrices, outs, rows, parts, strict=True):
            a, b = xs[i].unsqueeze(1), ys[j].unsqueeze(0)
            slope = grad.index_select(0, out)
            weighted = slope if weight is None else slope * weight.index_select(0, row)
            outer = (matrix.T @ weighted).view(len(a), b.shape[1], x.shape[1])
            _add(dx, i, (outer * b).sum(1))
            _add(dy, j, (outer * a).sum(0))
            if dw is not None:
                columns = matrix @ (a * b).flatten(0, 1) if again else part
                dw.index_add_(0, row, slope * columns)
        return (_joined(dx, xs), _joined(dy, ys), dw, None, *[None] * len(matrices))


def _add(totals: list[Tensor | None], number: int, value: Tensor) -> None:
    before = totals[number]
    totals[number] = value if before is None else before + value


def _joined(blocks: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    """Blocks one after the other, zeros where there is none."""
    return torch.cat([torch.zeros_like(b) if a is None else a for a, b in zip(blocks, like, strict=True)])


class DenseCG(CouplingProduct):
    """One contraction with the whole coupling tensor per path."""

    @on_cpu
    def __init__(self, irreps: Any, paths: Sequence[Path], coefficients: Sequence[float]) -> None:
        super().__init__(irreps, paths, coefficients)
        for number in range(len(self.paths)):
            self.register_constant(f"coupling_{number}", self.coupling(number))

    def forward(
        self, x: Float[Tensor, "dx rows"], y: Float[Tensor, "dy rows"], weight: Float[Tensor, "paths rows"] | None
    ) -> Float[Tensor, "dz rows"]:
        """See `CouplingProduct`."""
        blocks: list[list[Tensor]] = [[] for _ in self.irreps[2]]
        for number, path in enumerate(self.paths):
            coupling = getattr(self, f"coupling_{number}")
            value = torch.einsum("ar,br,abc->cr", x[self.block(0, path.x)], y[self.block(1, path.y)], coupling)
            blocks[path.out].append(value if weight is None else value * weight[number])
        return _summed(blocks, self.irreps[2], x)

    def flops(self) -> int:
        """Floating-point operations a row."""
        return sum(_terms(self.degrees(path)) + 2 * self.irreps[2][path.out].dim for path in self.paths)


class SparseCG(CouplingProduct):
    """The non-zero terms of the coupling tensors only, gathered, multiplied and added up."""

    x_index: Tensor
    y_index: Tensor
    out_index: Tensor
    path_index: Tensor
    values: Tensor

    @on_cpu
    def __init__(self, irreps: Any, paths: Sequence[Path], coefficients: Sequence[float]) -> None:
        super().__init__(irreps, paths, coefficients)
        found: list[Tensor] = []
        factors: list[Tensor] = []
        for number, path in enumerate(self.paths):
            coupling = self.coupling(number)
            entries = coupling.abs().gt(1e-12 * coupling.abs().max()).nonzero()
            factors.append(coupling[tuple(entries.T)])
            begins = torch.tensor([self.offsets[k][i] for k, i in enumerate((path.x, path.y, path.out))])
            found.append(torch.cat([entries + begins, torch.full((len(entries), 1), number)], dim=1))
        index = torch.cat(found) if found else torch.zeros(0, 4, dtype=torch.int64)
        for name, column in zip(("x_index", "y_index", "out_index", "path_index"), index.T, strict=True):
            self.register_buffer(name, column.contiguous(), persistent=False)
        self.register_constant("values", torch.cat(factors) if factors else torch.zeros(0).double())

    def forward(
        self, x: Float[Tensor, "dx rows"], y: Float[Tensor, "dy rows"], weight: Float[Tensor, "paths rows"] | None
    ) -> Float[Tensor, "dz rows"]:
        """See `CouplingProduct`."""
        terms = x.index_select(0, self.x_index) * y.index_select(0, self.y_index) * self.values.unsqueeze(1)
        if weight is not None:
            terms = terms * weight.index_select(0, self.path_index)
        return x.new_zeros(self.offsets[2][-1], x.shape[1]).index_add(0, self.out_index, terms)

    def flops(self) -> int:
        """Floating-point operations a row."""
        return 4 * len(self.values)


def _terms(degrees: tuple[int, int, int]) -> int:
    a, b, c = (2 * degree + 1 for degree in degrees)
    return a * b * (1 + 2 * c)


def _summed(blocks: Sequence[Sequence[Tensor]], irreps: Sequence[Irrep], like: Tensor) -> Tensor:
    """Sum of the blocks of each irrep, zeros where there are none, one after the other."""
    rows = []
    for parts, irrep in zip(blocks, irreps, strict=True):
        rows.append(sum(parts[1:], start=parts[0]) if parts else like.new_zeros(irrep.dim, like.shape[1]))
    return torch.cat(rows) if rows else like.new_zeros(0, like.shape[1])
