"""`TensorProduct`: every equivariant product under one interface, one normalisation and one layout."""

import copy
import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.errors import ConfigError, nearest
from geomlib.nn.constants import ExactConstants, on_cpu
from geomlib.nn.tensor_product.clebsch_gordan import DenseCG, SparseCG, StackedCG
from geomlib.nn.tensor_product.cuequivariance import CuEquivarianceCG
from geomlib.nn.tensor_product.directional import DirectionalCG
from geomlib.nn.tensor_product.gaunt import FourierGaunt, GridGaunt, VectorGaunt, vector_basis
from geomlib.nn.tensor_product.irreps import Irrep, Path, all_paths, offsets, parse_irreps, width
from geomlib.nn.tensor_product.matrix import MatrixProduct

__all__ = ["KINDS", "OPTIONAL_KINDS", "TensorProduct"]

CLEBSCH_GORDAN = {"cg_stacked": StackedCG, "cg_dense": DenseCG, "cg_sparse": SparseCG}
KINDS = (*CLEBSCH_GORDAN, "gaunt_grid", "gaunt_fourier", "vector_gaunt", "matrix")
"""What `kind` may be. The product with a direction in the frame of that direction is `SO2Convolution`."""

OPTIONAL_KINDS = ("cuequivariance",)
"""More of them, from packages that are not always installed."""

IrrepsLike = str | Sequence[Irrep]


class TensorProduct(ExactConstants):
    """Equivariant bilinear map of two lists of irreps.

    `cg_*` and `cuequivariance`, which give the same numbers, have a weight for every path x ⊗ y → out. The other kinds
    have one fixed combination of the paths into each output irrep; their weights are factors of the input and output
    irreps, so that they reach less (see `expressivity`) at a lower cost (`flops`).

    With unit-variance inputs and weights every output component has variance 1.

    Args:
        kind: one of `KINDS` or `OPTIONAL_KINDS`.
        irreps_x, irreps_y, irreps_out: e.g. `"0e+1o+2e"`, one copy of each in every channel. `vector_gaunt` takes
            those of vector fields, `vector_basis(l_max, parity)`.
        channels: of x, and of the output but in mode `uvw`.
        mode: `uuu` multiplies channel by channel (a single channel of y meets all), `uvu` sums over the channels of
            y, `uvw` mixes all.
        channels_y: channels of y; `channels` by default.
        channels_out: channels of the output in mode `uvw`; `channels` by default.
        paths: couplings to keep, of those that parity allows; what is left out costs nothing.
        weights: `shared` parameters, `rows` given to `forward`, or `none`.
        coefficients: factor of each path instead of the normalisation, e.g. those of another package; only where
            paths have weights.

    Inputs:
        x: [rows, channels, components]
        y: [rows, channels_y, components]
        weight: rows of `weight_shape`, where weights is `rows`.
    Returns: [rows, channels, components]

    Raises:
        ConfigError: an unknown name, or irreps that the kind can't take.
        MissingExtra: `cuequivariance` is not installed.
    Source: Xie et al. 2025 (arXiv 2506.13523).
    """

    x_components: Tensor
    y_components: Tensor
    out_components: Tensor
    scale: Tensor

    def __init__(
        self,
        kind: str,
        irreps_x: IrrepsLike,
        irreps_y: IrrepsLike,
        irreps_out: IrrepsLike,
        channels: int,
        *,
        mode: Literal["uuu", "uvu", "uvw"] = "uuu",
        channels_y: int | None = None,
        channels_out: int | None = None,
        paths: Sequence[Path] | None = None,
        weights: Literal["shared", "rows", "none"] = "shared",
        coefficients: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        known = (*KINDS, *OPTIONAL_KINDS)
        if kind not in known:
            raise ConfigError(
                f"TensorProduct kind '{kind}' is unknown{nearest(kind, known)}; known: {', '.join(known)}"
            )
        if mode not in ("uuu", "uvu", "uvw") or weights not in ("shared", "rows", "none"):
            raise ConfigError(f"mode is uuu, uvu or uvw and weights shared, rows or none; got '{mode}' and '{weights}'")
        self.kind, self.mode, self.channels = kind, mode, channels
        self.channels_y = channels if channels_y is None else channels_y
        self.channels_out = (channels if channels_out is None else channels_out) if mode == "uvw" else channels
        if mode == "uuu" and self.channels_y not in (1, channels):
            raise ConfigError(f"mode uuu multiplies channel by channel: y has {self.channels_y}, x has {channels}")
        self.irreps_x, self.irreps_y = parse_irreps(irreps_x), parse_irreps(irreps_y)
        self.irreps_out = parse_irreps(irreps_out)
        allowed = all_paths(self.irreps_x, self.irreps_y, self.irreps_out)
        self.paths = tuple(allowed if paths is None else paths)
        for path in self.paths:
            if path not in allowed:
                raise ConfigError(f"{path} is no coupling of {self._names()}")
        self.is_clebsch_gordan = kind in CLEBSCH_GORDAN or kind == "cuequivariance"
        self.directional: DirectionalCG | None = None
        if coefficients is not None and not self.is_clebsch_gordan:
            raise ConfigError(f"kind '{kind}' has no coefficients of paths")
        self._build(coefficients)
        self.weight_shape = self._weight_shape()
        if weights == "shared":
            self.weight = nn.Parameter(torch.randn(self.weight_shape))
        self.weights = weights

    def _names(self) -> str:
        rows = ("+".join(map(str, row)) for row in (self.irreps_x, self.irreps_y, self.irreps_out))
        return "{} ⊗ {} → {}".format(*rows)

    # ---------------------------------------------------------------- making

    @on_cpu
    def _build(self, coefficients: Sequence[float] | None) -> None:
        irreps = (self.irreps_x, self.irreps_y, self.irreps_out)
        if self.kind == "cuequivariance":
            factors = self._coefficients() if coefficients is None else coefficients
            channels = (self.channels, self.channels_y, self.channels_out)
            self.operator: nn.Module = CuEquivarianceCG(irreps, self.paths, factors, self.mode, channels)
            return
        if self.is_clebsch_gordan:
            separate = self.mode == "uvw"  # each path is an output of its own, for channels are mixed path by path
            if separate:
                ends = tuple(self.irreps_out[path.out] for path in self.paths)
                irreps = (*irreps[:2], ends)
                used = tuple(Path(path.x, path.y, number) for number, path in enumerate(self.paths))
            else:
                used = self.paths
            factors = self._coefficients() if coefficients is None else coefficients
            self.operator = CLEBSCH_GORDAN[self.kind](irreps, used, factors)
            if self.kind == "cg_stacked" and self.mode == "uuu" and self.channels_y == 1 < self.channels:
                self.directional = DirectionalCG(irreps, used, factors)
            return
        # irreps that no path needs are left out, so that they cost nothing
        kept = [sorted({getattr(path, name) for path in self.paths}) for name in ("x", "y", "out")]
        if not self.paths:
            raise ConfigError(f"there is no coupling in {self._names()}")
        self.kept = kept
        x, y, out = (tuple(row[k] for k in some) for row, some in zip(irreps, kept, strict=True))
        reduced = (x, y, out)
        if self.kind == "vector_gaunt":
            self.operator = VectorGaunt([_vector_basis_of(row, some) for row, some in zip(irreps, kept, strict=True)])
        else:
            for row in reduced:
                if len({irrep.degree for irrep in row}) < len(row):
                    raise ConfigError(f"kind '{self.kind}' takes every degree once, got {'+'.join(map(str, row))}")
            if self.kind == "matrix":
                self.operator = MatrixProduct(reduced, inversion=self._has_natural_parity())
            else:
                self.operator = {"gaunt_grid": GridGaunt, "gaunt_fourier": FourierGaunt}[self.kind](reduced)
        for name, row, some in zip(("x", "y"), irreps, kept, strict=False):
            self.register_buffer(f"{name}_components", _components(row, some), persistent=False)
        self.register_buffer("out_components", _components(self.irreps_out, kept[2]), persistent=False)
        scale = self._scale(reduced)
        self.register_constant("scale", scale.unsqueeze(1))

    def _has_natural_parity(self) -> bool:
        """Whether the parities are those of spherical harmonics; False if all are even.

        Raises:
            ConfigError: neither, which a product of matrices can't keep.
        """
        irreps = (*self.irreps_x, *self.irreps_y, *self.irreps_out)
        natural = all(irrep.parity == (-1) ** irrep.degree for irrep in irreps)
        if not natural and any(irrep.parity == -1 for irrep in irreps):
            raise ConfigError(
                f"kind 'matrix' takes natural parities (0e+1o+2e…) or even ones only, got {self._names()}"
            )
        return natural

    def _coefficients(self) -> list[float]:
        """√((2·l_out + 1)/paths into the output), and what sums over channels add."""
        into = [path.out for path in self.paths]
        summed = {"uuu": 1, "uvu": self.channels_y, "uvw": self.channels * self.channels_y}[self.mode]
        return [math.sqrt(self.irreps_out[path.out].dim / (into.count(path.out) * summed)) for path in self.paths]

    def _scale(self, reduced: Sequence[Sequence[Irrep]]) -> Float[Tensor, " components"]:
        """Factor of each output component that makes its variance 1 (or leaves 0 where nothing couples)."""
        dx, dy = width(reduced[0]), width(reduced[1])
        x = torch.eye(dx, dtype=torch.float64).repeat_interleave(dy, dim=1)
        y = torch.eye(dy, dtype=torch.float64).repeat(1, dx)
        variance = copy.deepcopy(self.operator).double()(x, y).square().sum(1)
        scale = torch.zeros_like(variance)
        begins = offsets(reduced[2])
        for irrep, begin in zip(reduced[2], begins, strict=False):
            mean = variance[begin : begin + irrep.dim].mean()
            scale[begin : begin + irrep.dim] = mean.rsqrt() if mean > 1e-20 else 0.0
        summed = {"uuu": 1, "uvu": self.channels_y, "uvw": self.channels * self.channels_y}[self.mode]
        return scale / math.sqrt(summed)

    def _weight_shape(self) -> tuple[int, ...]:
        if self.is_clebsch_gordan:
            count = len(self.paths)
        elif self.mode == "uvw":
            count = len(self.kept[2])
        else:
            count = sum(map(len, self.kept))
        return {
            "uuu": (count, self.channels),
            "uvu": (count, self.channels, self.channels_y),
            "uvw": (count, self.channels, self.channels_y, self.channels_out),
        }[self.mode]

    # ---------------------------------------------------------------- multiplying

    def forward(
        self,
        x: Float[Tensor, "rows channels dx"],
        y: Float[Tensor, "rows channels_y dy"],
        weight: Float[Tensor, "rows ..."] | None = None,
    ) -> Float[Tensor, "rows channels_out dz"]:
        """Multiply."""
        rows = x.shape[0]
        weight = self._given(weight, rows)
        if isinstance(self.operator, CuEquivarianceCG):
            return self._with_channels(self.operator, x.mT, y.mT, weight).mT
        pairs: tuple[int, ...] = (rows, self.channels)
        if self.mode == "uuu":
            y = y.expand(rows, self.channels, y.shape[2])
        else:
            pairs = (rows, self.channels, self.channels_y)
            x, y = x.unsqueeze(2).expand(*pairs, x.shape[2]), y.unsqueeze(1).expand(*pairs, y.shape[2])
        x, y = (value.reshape(-1, value.shape[-1]).T.contiguous() for value in (x, y))
        factors = None
        if weight is not None and self.mode != "uvw":
            factors = weight.movedim(1, 0).expand(weight.shape[1], *pairs).flatten(1)
        z = self._multiply(x, y, factors)
        z = z.T.reshape(*pairs, len(z))
        if self.mode == "uvu":
            return z.sum(2)
        return z if self.mode == "uuu" else self._mix(z, weight)

    def multiply(
        self,
        x: Float[Tensor, "dx rows channels"],
        y: Float[Tensor, "dy rows channels"],
        weight: Float[Tensor, "paths rows channels"] | None = None,
    ) -> Float[Tensor, "dz rows channels"]:
        """The same in mode `uuu` for tensors that have the components first, as spherical layers have them.

        Args:
            x: one factor.
            y: the other; with a single channel it meets all of x.
            weight: where the weights are those of rows.
        """
        shape = x.shape[1:]
        if self.weights == "shared":
            weight = self.weight.unsqueeze(1)
        if isinstance(self.operator, CuEquivarianceCG):
            by_row = None if weight is None else weight.transpose(0, 1)
            return self._with_channels(self.operator, x.transpose(0, 1), y.transpose(0, 1), by_row).transpose(0, 1)
        if self.directional is not None and y.shape[2] == 1:
            return self.directional(x, y.squeeze(2), None if weight is None else weight.expand(-1, *shape))
        factors = None if weight is None else weight.expand(-1, *shape).flatten(1)
        y = y.expand(-1, *shape)
        return self._multiply(x.flatten(1), y.flatten(1), factors).unflatten(1, shape)

    def _with_channels(
        self,
        operator: CuEquivarianceCG,
        x: Float[Tensor, "rows dx channels"],
        y: Float[Tensor, "rows dy channels_y"],
        weight: Float[Tensor, "rows ..."] | None,
    ) -> Float[Tensor, "rows dz channels_out"]:
        """Multiply with an operator that sees to channels and weights itself."""
        if weight is None:
            weight = x.new_ones(1, *self.weight_shape)
        z: Tensor = operator(x.flatten(1), y.flatten(1), weight.flatten(1))
        return z.unflatten(1, (-1, self.channels_out))

    def _given(self, weight: Tensor | None, rows: int) -> Tensor | None:
        """Weights with a leading axis of rows, or of 1."""
        if self.weights == "rows":
            if weight is None or tuple(weight.shape) != (rows, *self.weight_shape):
                found = "none" if weight is None else list(weight.shape)
                raise ConfigError(f"this product takes weights of shape {[rows, *self.weight_shape]}, got {found}")
            return weight
        if weight is not None:
            raise ConfigError(f"this product has {self.weights} weights and takes none")
        return self.weight.unsqueeze(0) if self.weights == "shared" else None

    def _multiply(self, x: Tensor, y: Tensor, factors: Tensor | None) -> Tensor:
        if self.is_clebsch_gordan:
            return self.operator(x, y, factors)
        x, y = x.index_select(0, self.x_components), y.index_select(0, self.y_components)
        if factors is not None:
            split = torch.split(factors, [len(some) for some in self.kept])
            lists = (self.irreps_x, self.irreps_y, self.irreps_out)
            of_x, of_y, of_out = (
                part.repeat_interleave(torch.tensor([row[k].dim for k in some], device=part.device), dim=0)
                for part, row, some in zip(split, lists, self.kept, strict=True)
            )
            x, y = x * of_x, y * of_y
        z = self.operator(x, y) * self.scale
        if factors is not None:
            z = z * of_out
        if len(self.kept[2]) == len(self.irreps_out):
            return z
        return z.new_zeros(width(self.irreps_out), z.shape[1]).index_copy(0, self.out_components, z)

    def _mix(self, z: Tensor, weight: Tensor | None) -> Tensor:
        """Channels of the output from all pairs of channels; [rows, u, v, components] → [rows, w, components]."""
        by_path = self.is_clebsch_gordan
        sources = (
            [(number, path.out) for number, path in enumerate(self.paths)]
            if by_path
            else [(number, out) for number, out in enumerate(self.kept[2])]
        )
        begin = 0
        blocks: list[list[Tensor]] = [[] for _ in self.irreps_out]
        places = offsets(self.irreps_out)
        for number, out in sources:
            dim = self.irreps_out[out].dim
            begin = begin if by_path else places[out]
            part = z[..., begin : begin + dim]
            if weight is None:
                mixed = part.sum((1, 2)).unsqueeze(1).expand(-1, self.channels_out, -1)
            else:
                mixed = torch.einsum("zuvm,zuvw->zwm", part, weight[:, number].expand(len(z), -1, -1, -1))
            blocks[out].append(mixed)
            begin += dim
        shape = (len(z), self.channels_out)
        return torch.cat(
            [
                sum(parts[1:], start=parts[0]) if parts else z.new_zeros(*shape, irrep.dim)
                for parts, irrep in zip(blocks, self.irreps_out, strict=True)
            ],
            dim=2,
        )

    # ---------------------------------------------------------------- what it can do and what it costs

    def flops(self) -> int:
        """Floating-point operations for one row of one pair of channels."""
        return int(self.operator.flops())  # type: ignore[operator]

    def expressivity(self) -> int:
        """Dimension of the set of bilinear maps that the weights, and a factor of each irrep before and after, reach.

        It is the rank of the derivative of the map with respect to all of them at a random point, for one channel.
        """
        single = TensorProduct(
            self.kind, self.irreps_x, self.irreps_y, self.irreps_out, 1, paths=self.paths, weights="rows"
        ).double()
        generator = torch.Generator().manual_seed(0)
        lists = (self.irreps_x, self.irreps_y, self.irreps_out)
        sizes = [single.weight_shape[0], *map(len, lists)]
        point = torch.randn(sum(sizes), generator=generator, dtype=torch.float64)
        dx, dy = width(lists[0]), width(lists[1])
        x = torch.eye(dx, dtype=torch.float64).repeat_interleave(dy, dim=0).unsqueeze(1)
        y = torch.eye(dy, dtype=torch.float64).repeat(dx, 1).unsqueeze(1)

        def tensor(values: Tensor) -> Tensor:
            weight, *scales = torch.split(values, sizes)
            of_x, of_y, of_out = (
                scale.repeat_interleave(torch.tensor([irrep.dim for irrep in row]))
                for scale, row in zip(scales, lists, strict=True)
            )
            rows = weight.view(1, -1, 1).expand(len(x), -1, -1)
            return (single(x * of_x, y * of_y, rows) * of_out).flatten()

        matrix = torch.stack(
            [torch.autograd.functional.jvp(tensor, point, unit)[1] for unit in torch.eye(len(point)).double()]
        )
        gram = matrix @ matrix.T
        values = torch.linalg.eigvalsh(gram)
        return int((values > 1e-9 * values.max()).sum())


def _components(irreps: Sequence[Irrep], kept: Sequence[int]) -> Tensor:
    begins = offsets(irreps)
    return torch.cat([torch.arange(begins[k], begins[k + 1]) for k in kept])


def _vector_basis_of(irreps: Sequence[Irrep], kept: Sequence[int]) -> Tensor:
    for top in range(max(irrep.degree for irrep in irreps) + 1):
        for parity in (-1, 1):
            names, basis = vector_basis(top, parity)
            if sorted(names) == sorted(irreps) and names == tuple(irreps):
                return basis[..., _components(names, kept)]
    raise ConfigError(
        "vector_gaunt takes the irreps of vector fields, vector_basis(l_max, parity)[0], got "
        + "+".join(map(str, irreps))
    )
