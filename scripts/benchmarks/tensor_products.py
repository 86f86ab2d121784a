"""Time, cost and reach of the tensor products, and which of them can tell a molecule from its mirror image.

    python scripts/benchmarks/tensor_products.py [--rows 128] [--channels 16] [--l-max 6] [--device cpu]
        [--figure tensor_products.png] [--json]
    python scripts/benchmarks/tensor_products.py --tetris

Every product maps irreps of degrees 0 to L times the same to the same, channel by channel, in single precision on one
thread; times are CPU seconds (on a GPU, seconds of the device), best of several, forward and forward with backward.
`expressivity` is the number of independent bilinear maps that a product can be made to be (see
`TensorProduct.expressivity`); what counts is the time for each of them. e3nn's product of the same paths is timed in
the same run, with its constants matched and its results compared; cuequivariance too where it is installed.

`--tetris` trains a small net with each product on the eight pieces of 3-D tetris, two of which are mirror images.
"""

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from e3nn import o3
from torch import Tensor, nn

from geomlib.nn.spherical import SphericalLinear
from geomlib.nn.tensor_product import TensorProduct, natural_irreps, width
from geomlib.nn.tensor_product.gaunt import vector_basis
from geomlib.nn.tensor_product.grid import spherical_harmonics_at

KINDS = ("cg_stacked", "cg_dense", "cg_sparse", "gaunt_grid", "gaunt_fourier", "vector_gaunt", "matrix")
if importlib.util.find_spec("cuequivariance_torch") is not None:
    KINDS = (*KINDS, "cuequivariance")


def best(function: Callable[[], Any], device: torch.device, repeats: int = 10) -> float:
    """Least time of a call [ms]."""
    for _ in range(2):
        function()
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize()
            begin = time.perf_counter()
            function()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        else:
            begin = time.process_time()
            function()
            times.append(time.process_time() - begin)
    return 1e3 * min(times)


def product(kind: str, l_max: int, channels: int, weights: str) -> TensorProduct:
    """A product of degrees 0 to `l_max` with itself; vector fields for `vector_gaunt`."""
    if kind == "vector_gaunt":
        fields, out = vector_basis(l_max, -1)[0], vector_basis(l_max, 1)[0]
        return TensorProduct(kind, fields, fields, out, channels, weights=weights)
    irreps = natural_irreps(l_max)
    return TensorProduct(kind, irreps, irreps, irreps, channels, weights=weights)


def measure(kind: str, l_max: int, args: argparse.Namespace) -> dict[str, float]:
    """Times of one product with a weight of each row, path and channel."""
    device = torch.device(args.device)
    tensor = product(kind, l_max, args.channels, "rows").to(device)
    x = torch.randn(width(tensor.irreps_x), args.rows, args.channels, device=device, requires_grad=True)
    y = torch.randn(width(tensor.irreps_y), args.rows, args.channels, device=device, requires_grad=True)
    weight = torch.randn(tensor.weight_shape[0], args.rows, args.channels, device=device, requires_grad=True)

    def forward() -> Tensor:
        return tensor.multiply(x, y, weight)

    def both() -> None:
        torch.autograd.grad(forward().sum(), (x, y, weight))

    with torch.no_grad():
        alone = best(forward, device)
    return {
        "l_max": l_max,
        "forward_ms": alone,
        "both_ms": best(both, device),
        "expressivity": tensor.expressivity() if l_max <= args.l_express else float("nan"),
        "flops": tensor.flops() * args.rows * args.channels,
        "weights": tensor.weight_shape[0],
    }


def measure_e3nn(l_max: int, args: argparse.Namespace) -> dict[str, float]:
    """e3nn's product of the same paths, and how far its results are from ours."""
    device = torch.device(args.device)
    ours = product("cg_stacked", l_max, args.channels, "rows").to(device)
    irreps = "+".join(f"{args.channels}x{irrep}" for irrep in ours.irreps_x)
    paths = [(path.x, path.y, path.out, "uuu", True, 1.0) for path in ours.paths]
    theirs = o3.TensorProduct(
        irreps,
        irreps,
        irreps,
        paths,
        shared_weights=False,
        internal_weights=False,
        irrep_normalization="component",
        path_normalization="element",
    ).to(device)
    x, y = (torch.randn(args.rows, args.channels, width(ours.irreps_x), device=device) for _ in range(2))
    weight = torch.randn(args.rows, *ours.weight_shape, device=device)

    def flat(value: Tensor) -> Tensor:
        parts = value.split([irrep.dim for irrep in ours.irreps_x], dim=2)
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    difference = float((flat(ours(x, y, weight)) - theirs(flat(x), flat(y), weight.flatten(1))).abs().max())
    a, b, w = (value.requires_grad_() for value in (flat(x), flat(y), weight.flatten(1)))
    with torch.no_grad():
        alone = best(lambda: theirs(a, b, w), device)
    both = best(lambda: torch.autograd.grad(theirs(a, b, w).sum(), (a, b, w)), device)
    return {
        "l_max": l_max,
        "forward_ms": alone,
        "both_ms": both,
        "expressivity": len(paths),
        "flops": float("nan"),
        "weights": len(paths),
        "difference": difference,
    }


def show(rows: dict[str, list[dict[str, float]]]) -> None:
    """The table."""
    print(f"{'product':<15}{'L':>3}{'forward':>10}{'+backward':>11}{'reach':>7}{'ms per map':>12}{'Mflop':>9}")
    for kind, found in rows.items():
        for row in found:
            reach = row["expressivity"]
            print(
                f"{kind:<15}{row['l_max']:>3}{row['forward_ms']:>10.2f}{row['both_ms']:>11.2f}"
                f"{reach:>7.0f}{row['both_ms'] / reach:>12.3f}{row['flops'] / 1e6:>9.1f}"
            )
    for ours, theirs in zip(rows["cg_stacked"], rows["e3nn"], strict=True):
        print(
            f"L={ours['l_max']}: e3nn/cg_stacked {theirs['forward_ms'] / ours['forward_ms']:.1f} forward, "
            f"{theirs['both_ms'] / ours['both_ms']:.1f} with backward; results differ by {theirs['difference']:.1e}"
        )


def draw(rows: dict[str, list[dict[str, float]]], path: str) -> None:
    """Time against reach."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for kind, found in rows.items():
        points = [(row["expressivity"], row["both_ms"]) for row in found if row["expressivity"] == row["expressivity"]]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=kind)
        for (reach, cost), row in zip(points, found, strict=False):
            axes.annotate(f"{row['l_max']:.0f}", (reach, cost), fontsize=7, xytext=(3, 2), textcoords="offset points")
    axes.set(xscale="log", yscale="log", xlabel="independent bilinear maps", ylabel="forward and backward / ms")
    axes.set_title("numbers are the largest degree", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=160)


# -------------------------------------------------------------------- tetris

PIECES = [
    [(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 1, 0)],  # chiral
    [(1, 1, 1), (1, 1, 2), (2, 1, 1), (2, 0, 1)],  # its mirror image
    [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)],
    [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3)],
    [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)],
    [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0)],
    [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 1)],
    [(0, 0, 0), (1, 0, 0), (1, 1, 0), (2, 1, 0)],
]


DISTANCES = (1.0, 2**0.5, 3**0.5, 2.0, 5**0.5, 3.0)
"""Between the cubes of a piece."""


class Product(nn.Module):
    """A product of features of degrees 0 to L, all even, into features of the same kind."""

    def __init__(self, kind: str, l_max: int, channels: int) -> None:
        super().__init__()
        even = natural_irreps(l_max, parity=False)
        self.kind, self.degrees = kind, range(l_max + 1)
        if kind == "vector_gaunt":
            self.fields, self.out_fields = vector_basis(l_max, -1)[0], vector_basis(2 * l_max, 1)[0]
            self.product = TensorProduct(kind, self.fields, self.fields, self.out_fields, channels)
            self.inputs = nn.Parameter(torch.randn(2, len(self.fields), channels))
            self.outputs = nn.Parameter(torch.randn(len(self.out_fields), channels))
        elif kind in ("gaunt_grid", "gaunt_fourier"):
            natural = natural_irreps(l_max)
            self.product = TensorProduct(kind, natural, natural, natural, channels)
        else:
            self.product = TensorProduct(kind, even, even, even, channels)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Multiply [components, rows, channels]."""
        if self.kind != "vector_gaunt":
            return self.product.multiply(x, y)
        blocks = [value.split([2 * degree + 1 for degree in self.degrees]) for value in (x, y)]
        factors = []
        for number, parts in enumerate(blocks):
            spread = [
                parts[irrep.degree] * self.inputs[number, k]
                if irrep.degree in self.degrees
                else x.new_zeros(irrep.dim, *x.shape[1:])
                for k, irrep in enumerate(self.fields)
            ]
            factors.append(torch.cat(spread))
        z = self.product.multiply(*factors).split([irrep.dim for irrep in self.out_fields])
        gathered = []
        for degree in self.degrees:
            same = [
                part * self.outputs[k]
                for k, (irrep, part) in enumerate(zip(self.out_fields, z, strict=True))
                if irrep.degree == degree
            ]
            gathered.append(sum(same[1:], start=same[0]))
        return torch.cat(gathered)


class TetrisNet(nn.Module):
    """Harmonics of the other cubes at each distance, two products, scalars, classes."""

    def __init__(self, kind: str, l_max: int = 2, channels: int = 16) -> None:
        super().__init__()
        even = natural_irreps(l_max, parity=False)
        self.l_max = l_max
        self.embed = SphericalLinear(even, len(DISTANCES), channels)
        self.maps = nn.ModuleList(SphericalLinear(even, channels, channels) for _ in range(3))
        self.products = nn.ModuleList(Product(kind, l_max, channels) for _ in range(2))
        self.head = nn.Sequential(nn.Linear(2 * channels, 64), nn.SiLU(), nn.Linear(64, len(PIECES)))

    def forward(self, pos: Tensor) -> Tensor:
        """Scores [pieces, classes] of pieces [pieces, 4, 3]."""
        vectors = pos.unsqueeze(1) - pos.unsqueeze(2)
        distance = vectors.norm(dim=3)
        shells = torch.exp(-20.0 * (distance.unsqueeze(3) - pos.new_tensor(DISTANCES)).square())
        unit = vectors / distance.clamp_min(1e-6).unsqueeze(3)
        harmonics = spherical_harmonics_at(range(self.l_max + 1), unit.reshape(-1, 3)).view(*distance.shape, -1)
        x = torch.einsum("npqm,npqs->mnps", harmonics, shells).flatten(1, 2)
        x = self.embed(x)
        first = self.products[0](self.maps[0](x), self.maps[1](x))
        second = self.products[1](self.maps[2](first), x)
        scalars = torch.cat([first[0], second[0]], dim=1).view(len(pos), 4, -1)
        return self.head(scalars.mean(1))


def tetris(kind: str, steps: int = 400) -> dict[str, float]:
    """Train on turned pieces, test on others; shares of pieces and of the two mirror images that are told right."""
    torch.manual_seed(0)
    net = TetrisNet(kind)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    pieces, labels = torch.tensor(PIECES, dtype=torch.float32), torch.arange(len(PIECES))

    def turned(count: int) -> tuple[Tensor, Tensor]:
        turns = o3.rand_matrix(count * len(PIECES))
        return torch.einsum("nij,npj->npi", turns, pieces.repeat(count, 1, 1)), labels.repeat(count)

    for _ in range(steps):
        pos, label = turned(4)
        loss = nn.functional.cross_entropy(net(pos), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        pos, label = turned(50)
        right = net(pos).argmax(1) == label
    return {"all": float(right.float().mean()), "mirror images": float(right[label < 2].float().mean())}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--l-max", type=int, default=6)
    parser.add_argument("--l-express", type=int, default=3, help="largest degree at which the reach is computed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--figure", help="write the picture here")
    parser.add_argument("--tetris", action="store_true")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.tetris:
        results: dict[str, Any] = {kind: tetris(kind) for kind in KINDS}
        print(f"{'product':<16}{'all pieces':>12}{'mirror images':>16}")
        for kind, row in results.items():
            print(f"{kind:<16}{100 * row['all']:>11.0f}%{100 * row['mirror images']:>15.0f}%")
    else:
        degrees = range(1, args.l_max + 1)
        results = {kind: [measure(kind, l_max, args) for l_max in degrees] for kind in KINDS}
        results["e3nn"] = [measure_e3nn(l_max, args) for l_max in degrees]
        for found in results.values():  # the reach of Clebsch-Gordan products is the number of their paths
            for row in found:
                if row["expressivity"] != row["expressivity"]:
                    gaunt = row["weights"] == 3 * (row["l_max"] + 1)
                    row["expressivity"] = 3 * row["l_max"] + 1 if gaunt else row["weights"]
        show(results)
        if args.figure:
            draw(results, args.figure)
    if args.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
