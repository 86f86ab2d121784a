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
    """Which products of blocks a stacked product makes.

    Args:
        pairs: components of x and of y, and numbers of the weights, for each pair of input irreps.
        outs: components of the output of each path.
        dims: components of all irreps of x, y and the output.
    """

    pairs: tuple[tuple[slice, slice, tuple[int, ...]], ...]
    outs: tuple[slice, ...]
    dims: tuple[tuple[int, ...], ...]


class StackedCG(CouplingProduct):
    """For each pair of input irreps one outer product and one matrix product for all their paths.

    Weights act on what the matrix gives, so the cost is that of dense matrix products whatever the number of rows.
    The backward pass keeps the inputs and the unweighted results only, and can be differentiated again.
    """

    @on_cpu
    def __init__(self, irreps: Any, paths: Sequence[Path], coefficients: Sequence[float]) -> None:
        super().__init__(irreps, paths, coefficients)
        numbered = sorted(range(len(paths)), key=lambda number: (paths[number].x, paths[number].y))
        self._groups: list[tuple[int, int, list[int]]] = []
        for (i, j), group in groupby(numbered, key=lambda number: (paths[number].x, paths[number].y)):
            members = list(group)
            matrix = torch.cat([self.coupling(number).flatten(0, 1).T for number in members])  # [Σ m3, m1·m2]
            self.register_constant(f"matrix_{len(self._groups)}", matrix)
            self._groups.append((i, j, members))
        self._plans: dict[tuple[int, ...], _Plan] = {}

    def forward(
        self,
        x: Float[Tensor, "dx rows"],
        y: Float[Tensor, "dy rows"],
        weight: Float[Tensor, "paths rows"] | None,
        active: Sequence[int] | None = None,
    ) -> Float[Tensor, "dz rows"]:
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
            if some := tuple(position[number] for number in members if number in position):
                pairs.append((self.block(0, i), self.block(1, j), some))
        outs = tuple(self.block(2, self.paths[number].out) for number in active)
        return _Plan(tuple(pairs), outs, tuple(tuple(irrep.dim for irrep in row) for row in self.irreps))

    def _matrices(self, active: tuple[int, ...]) -> list[Tensor]:
        """Rows of each matrix that belong to `active` paths."""
        chosen, found = set(active), []
        for number, (_, _, members) in enumerate(self._groups):
            matrix = self.get_buffer(f"matrix_{number}")
            if all(member in chosen for member in members):
                found.append(matrix)
            elif any(member in chosen for member in members):
                blocks = matrix.split([self.irreps[2][self.paths[member].out].dim for member in members])
                found.append(torch.cat([b for b, member in zip(blocks, members, strict=True) if member in chosen]))
        return found

    def flops(self) -> int:
        """Floating-point operations a row."""
        total = 0
        for i, j, members in self._groups:
            entries = self.irreps[0][i].dim * self.irreps[1][j].dim
            columns = sum(self.irreps[2][self.paths[number].out].dim for number in members)
            total += entries + 2 * entries * columns + 2 * columns
        return total


class _Stacked(torch.autograd.Function):
    """z = Σ_pairs Σ_paths w · M (x ⊗ y); its backward is made of operations that autograd knows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, weight: Tensor | None, plan: _Plan, *matrices: Tensor) -> Tensor:
        z = x.new_zeros(sum(plan.dims[2]), x.shape[1])
        kept = []
        for (of_x, of_y, members), matrix in zip(plan.pairs, matrices, strict=True):
            outer = (x[of_x].unsqueeze(1) * y[of_y].unsqueeze(0)).flatten(0, 1)
            columns = matrix @ outer
            begin = 0
            for number in members:
                block = plan.outs[number]
                end = begin + block.stop - block.start
                if weight is None:
                    z[block] += columns[begin:end]
                else:
                    z[block].addcmul_(columns[begin:end], weight[number])
                begin = end
            if weight is not None:
                kept.append(columns)
        ctx.plan, ctx.matrices, ctx.weighted = plan, matrices, weight is not None
        ctx.save_for_backward(x, y, *([weight] if weight is not None else []), *kept)
        return z

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan, matrices = ctx.plan, ctx.matrices
        x, y, *rest = ctx.saved_tensors
        weight, kept = (rest[0], rest[1:]) if ctx.weighted else (None, [])
        again = torch.is_grad_enabled()  # a second derivative is asked for: `kept` has no history then
        need_weight = ctx.weighted and ctx.needs_input_grad[2]
        dx: dict[int, Tensor] = {}
        dy: dict[int, Tensor] = {}
        dw: list[Tensor] = [grad.new_zeros(())] * len(plan.outs)
        for position, ((of_x, of_y, members), matrix) in enumerate(zip(plan.pairs, matrices, strict=True)):
            blocks = [grad[plan.outs[number]] for number in members]
            weighted = blocks if weight is None else [b * weight[n] for b, n in zip(blocks, members, strict=True)]
            outer = (matrix.T @ torch.cat(weighted)).view(of_x.stop - of_x.start, of_y.stop - of_y.start, x.shape[1])
            a, b = x[of_x], y[of_y]
            for total, begin, value in (
                (dx, of_x.start, (outer * b.unsqueeze(0)).sum(1)),
                (dy, of_y.start, (outer * a.unsqueeze(1)).sum(0)),
            ):
                total[begin] = total[begin] + value if begin in total else value
            if need_weight:
                columns = matrix @ (a.unsqueeze(1) * b.unsqueeze(0)).flatten(0, 1) if again else kept[position]
                begin = 0
                for number, block in zip(members, blocks, strict=True):
                    dw[number] = (columns[begin : begin + len(block)] * block).sum(0)
                    begin += len(block)
        of_weight = torch.stack(dw) if need_weight else None
        gradients = (_filled(dx, plan.dims[0], x), _filled(dy, plan.dims[1], x))
        return (*gradients, of_weight, None, *[None] * len(matrices))


def _filled(blocks: dict[int, Tensor], dims: Sequence[int], like: Tensor) -> Tensor:
    """Blocks by their first component one after the other, zeros where there are none."""
    parts, begin = [], 0
    for dim in dims:
        parts.append(blocks[begin] if begin in blocks else like.new_zeros(dim, like.shape[1]))
        begin += dim
    return torch.cat(parts)


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
