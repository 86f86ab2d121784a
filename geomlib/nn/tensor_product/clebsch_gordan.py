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
class _Term:
    """A path of a pair of input irreps.

    Args:
        weight: row of its weight.
        out: components of the output.
        swapped: whether it is of y ⊗ x.
    """

    weight: int
    out: slice
    swapped: bool


@dataclass(frozen=True)
class _Plan:
    """Which products of blocks a stacked product makes.

    Args:
        pairs: components of x and of y, and the paths, for each pair of input irreps.
        orders: 2 where y ⊗ x is made too.
        components: of the output.
    """

    pairs: tuple[tuple[slice, slice, tuple[_Term, ...]], ...]
    orders: int
    components: int


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
        self._plans: dict[tuple[int, ...], _Plan] = {}

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
        if chosen not in self._plans:
            self._plans.clear()  # paths that change come at every step
            self._plans[chosen] = self._plan(chosen)
        plan = self._plans[chosen]
        return _Stacked.apply(x, y, weight, plan, *self._matrices(chosen))

    def _plan(self, active: tuple[int, ...]) -> _Plan:
        position = {number: k for k, number in enumerate(active)}
        pairs = []
        for i, j, members in self._groups:
            if terms := tuple(
                _Term(position[number], self.block(2, self.paths[number].out), swapped)
                for number, swapped in members
                if number in position
            ):
                pairs.append((self.block(0, i), self.block(1, j), terms))
        return _Plan(tuple(pairs), 1 + self.both_orders, self.offsets[2][-1])

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
        z = x.new_zeros(plan.components, plan.orders, x.shape[1])
        kept = []
        for (of_x, of_y, terms), matrix in zip(plan.pairs, matrices, strict=True):
            columns = matrix @ (x[of_x].unsqueeze(1) * y[of_y].unsqueeze(0)).flatten(0, 1)
            begin = 0
            for term in terms:
                total = z[term.out, int(term.swapped)]
                part = columns[begin : begin + len(total)]
                if weight is None:
                    total += part
                else:
                    total.addcmul_(part, weight[term.weight])
                begin += len(total)
            if weight is not None:
                kept.append(columns)
        ctx.plan, ctx.matrices, ctx.weighted = plan, matrices, weight is not None
        ctx.save_for_backward(x, y, *([weight] if weight is not None else []), *kept)
        return z.flatten(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan, matrices = ctx.plan, ctx.matrices
        x, y, *rest = ctx.saved_tensors
        weight, kept = (rest[0], rest[1:]) if ctx.weighted else (None, [])
        again = torch.is_grad_enabled()  # a second derivative is asked for: `kept` has no history then
        grad = grad.unflatten(1, (plan.orders, x.shape[1]))
        dx, dy = torch.zeros_like(x), torch.zeros_like(y)
        dw = torch.zeros_like(weight) if weight is not None and ctx.needs_input_grad[2] else None
        for position, ((of_x, of_y, terms), matrix) in enumerate(zip(plan.pairs, matrices, strict=True)):
            blocks = [grad[term.out, int(term.swapped)] for term in terms]
            a, b = x[of_x], y[of_y]
            weighted = blocks
            if weight is not None:
                weighted = [block * weight[term.weight] for block, term in zip(blocks, terms, strict=True)]
            outer = (matrix.T @ torch.cat(weighted)).unflatten(0, (len(a), len(b)))
            dx[of_x] += (outer * b.unsqueeze(0)).sum(1)
            dy[of_y] += (outer * a.unsqueeze(1)).sum(0)
            if dw is None:
                continue
            columns = matrix @ (a.unsqueeze(1) * b.unsqueeze(0)).flatten(0, 1) if again else kept[position]
            begin = 0
            for term, block in zip(terms, blocks, strict=True):
                dw[term.weight] += (columns[begin : begin + len(block)] * block).sum(0)
                begin += len(block)
        return (dx, dy, dw, None, *[None] * len(matrices))


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
        return _joined(blocks, self.irreps[2], x)

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


def _joined(blocks: Sequence[Sequence[Tensor]], irreps: Sequence[Irrep], like: Tensor) -> Tensor:
    """Sum of the blocks of each irrep, zeros where there are none, one after the other."""
    rows = []
    for parts, irrep in zip(blocks, irreps, strict=True):
        rows.append(sum(parts[1:], start=parts[0]) if parts else like.new_zeros(irrep.dim, like.shape[1]))
    return torch.cat(rows)
