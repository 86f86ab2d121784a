"""Clebsch-Gordan products: a matrix per pair of input irreps, a contraction per path, or the non-zero terms only."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geomlib.nn.constants import ExactConstants, on_cpu
from geomlib.nn.tensor_product.irreps import Irrep, Path, offsets, wigner_3j

__all__ = ["DenseCG", "SparseCG", "StackedCG"]


class _CG(ExactConstants):
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


class StackedCG(_CG):
    """For each pair of input irreps one outer product and one matrix product for all their paths.

    Weights act on what the matrix gives, so the cost is that of dense matrix products whatever the number of rows.
    The backward pass keeps the inputs and the unweighted results only, and can be differentiated again.
    """

    @on_cpu
    def __init__(self, irreps: Any, paths: Sequence[Path], coefficients: Sequence[float]) -> None:
        super().__init__(irreps, paths, coefficients)
        self.pairs: list[tuple[slice, slice, list[int]]] = []
        numbered = sorted(range(len(paths)), key=lambda number: (paths[number].x, paths[number].y))
        for (i, j), group in groupby(numbered, key=lambda number: (paths[number].x, paths[number].y)):
            members = list(group)
            matrix = torch.cat([self.coupling(number).flatten(0, 1).T for number in members])  # [Σ m3, m1·m2]
            self.register_constant(f"matrix_{len(self.pairs)}", matrix)
            self.pairs.append((self.block(0, i), self.block(1, j), members))

    def forward(
        self, x: Float[Tensor, "dx rows"], y: Float[Tensor, "dy rows"], weight: Float[Tensor, "paths rows"] | None
    ) -> Float[Tensor, "dz rows"]:
        """See `_CG`."""
        matrices = [getattr(self, f"matrix_{number}") for number in range(len(self.pairs))]
        return _Stacked.apply(x, y, weight, self, *matrices)

    def flops(self) -> int:
        """Floating-point operations a row."""
        total = 0
        for of_x, of_y, members in self.pairs:
            entries = (of_x.stop - of_x.start) * (of_y.stop - of_y.start)
            columns = sum(self.irreps[2][self.paths[number].out].dim for number in members)
            total += entries + 2 * entries * columns + 2 * columns
        return total


class _Stacked(torch.autograd.Function):
    """z = Σ_pairs Σ_paths w · M (x ⊗ y); its backward is made of operations that autograd knows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, weight: Tensor | None, plan: StackedCG, *matrices: Tensor) -> Tensor:
        rows = x.shape[1]
        z = x.new_zeros(plan.offsets[2][-1], rows)
        kept = []
        for (of_x, of_y, members), matrix in zip(plan.pairs, matrices, strict=True):
            outer = (x[of_x].unsqueeze(1) * y[of_y].unsqueeze(0)).flatten(0, 1)
            columns = matrix @ outer
            begin = 0
            for number in members:
                block = plan.block(2, plan.paths[number].out)
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
        dx: list[Tensor | None] = [None] * len(plan.irreps[0])
        dy: list[Tensor | None] = [None] * len(plan.irreps[1])
        dw: list[Tensor] = [grad.new_zeros(())] * len(plan.paths)
        rows = x.shape[1]
        for position, ((of_x, of_y, members), matrix) in enumerate(zip(plan.pairs, matrices, strict=True)):
            blocks = [grad[plan.block(2, plan.paths[number].out)] for number in members]
            weighted = blocks if weight is None else [b * weight[n] for b, n in zip(blocks, members, strict=True)]
            outer = (matrix.T @ torch.cat(weighted)).view(of_x.stop - of_x.start, of_y.stop - of_y.start, rows)
            a, b = x[of_x], y[of_y]
            path = plan.paths[members[0]]
            for total, which, value in (
                (dx, path.x, (outer * b.unsqueeze(0)).sum(1)),
                (dy, path.y, (outer * a.unsqueeze(1)).sum(0)),
            ):
                before = total[which]
                total[which] = value if before is None else before + value
            if need_weight:
                columns = matrix @ (a.unsqueeze(1) * b.unsqueeze(0)).flatten(0, 1) if again else kept[position]
                begin = 0
                for number, block in zip(members, blocks, strict=True):
                    dw[number] = (columns[begin : begin + len(block)] * block).sum(0)
                    begin += len(block)

        def joined(parts: list[Tensor | None], irreps: Sequence[Irrep]) -> Tensor:
            filled = [x.new_zeros(irrep.dim, rows) if p is None else p for p, irrep in zip(parts, irreps, strict=True)]
            return torch.cat(filled)

        of_weight = torch.stack(dw) if need_weight else None
        return (joined(dx, plan.irreps[0]), joined(dy, plan.irreps[1]), of_weight, None, *[None] * len(matrices))


class DenseCG(_CG):
    """One contraction with the whole coupling tensor per path."""

    @on_cpu
    def __init__(self, irreps: Any, paths: Sequence[Path], coefficients: Sequence[float]) -> None:
        super().__init__(irreps, paths, coefficients)
        for number in range(len(self.paths)):
            self.register_constant(f"coupling_{number}", self.coupling(number))

    def forward(
        self, x: Float[Tensor, "dx rows"], y: Float[Tensor, "dy rows"], weight: Float[Tensor, "paths rows"] | None
    ) -> Float[Tensor, "dz rows"]:
        """See `_CG`."""
        blocks: list[list[Tensor]] = [[] for _ in self.irreps[2]]
        for number, path in enumerate(self.paths):
            coupling = getattr(self, f"coupling_{number}")
            value = torch.einsum("ar,br,abc->cr", x[self.block(0, path.x)], y[self.block(1, path.y)], coupling)
            blocks[path.out].append(value if weight is None else value * weight[number])
        return _joined(blocks, self.irreps[2], x)

    def flops(self) -> int:
        """Floating-point operations a row."""
        return sum(_terms(self.degrees(path)) + 2 * self.irreps[2][path.out].dim for path in self.paths)


class SparseCG(_CG):
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
        """See `_CG`."""
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
