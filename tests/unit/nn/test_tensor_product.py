"""Tensor products: symmetry, equality of kinds, normalisation, masks that are structural, what each can reach."""

import math

import pytest
import torch
from e3nn import o3

from geomlib.errors import ConfigError
from geomlib.nn.tensor_product import (
    KINDS,
    Irrep,
    Path,
    SO2Convolution,
    TensorProduct,
    all_paths,
    natural_irreps,
    parse_irreps,
    width,
    wigner_matrix,
)
from geomlib.nn.tensor_product.clebsch_gordan import StackedCG
from geomlib.nn.tensor_product.gaunt import GridGaunt, vector_basis
from geomlib.nn.tensor_product.grid import quadrature, spherical_harmonics_at

CG = ("cg_stacked", "cg_dense", "cg_sparse")


def make(kind: str, l_max: int = 2, channels: int = 2, **options) -> TensorProduct:
    if kind == "vector_gaunt":
        fields, out = vector_basis(l_max, -1)[0], vector_basis(2 * l_max, 1)[0]
        return TensorProduct(kind, fields, fields, out, channels, **options).double()
    irreps = natural_irreps(l_max)
    return TensorProduct(kind, irreps, irreps, natural_irreps(2 * l_max), channels, **options).double()


def inputs(product: TensorProduct, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, product.channels, width(product.irreps_x), generator=generator, dtype=torch.float64)
    y = torch.randn(rows, product.channels_y, width(product.irreps_y), generator=generator, dtype=torch.float64)
    return x, y


def size(value: torch.Tensor) -> float:
    return float(value.detach().abs().max())


def rotation(seed: int = 0, improper: bool = False) -> torch.Tensor:
    matrix = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)).double())[0]
    matrix = matrix * torch.linalg.det(matrix)
    return -matrix if improper else matrix


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("improper", [False, True])
def test_product_turns_with_its_inputs(kind, improper):
    product = make(kind)
    x, y = inputs(product)
    turn = rotation(improper=improper)
    dx, dy, dz = (wigner_matrix(row, turn) for row in (product.irreps_x, product.irreps_y, product.irreps_out))
    turned = product(x @ dx.T, y @ dy.T)
    assert size(turned - product(x, y) @ dz.T) < 1e-12
    assert size(turned) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_precision_is_that_of_the_module_and_constants_stay_exact(kind):
    product = make(kind)
    x, y = inputs(product)
    exact = product(x, y)
    single = product.float()
    assert single(x.float(), y.float()).dtype == torch.float32
    again = single.double()
    with torch.no_grad():
        again.weight.copy_(again.weight.float())
        product = make(kind)
        product.weight.copy_(again.weight)
    assert torch.equal(again(x, y), product(x, y))
    assert exact.dtype == torch.float64
    irreps = natural_irreps(1)
    if kind != "vector_gaunt":
        fresh = TensorProduct(kind, irreps, irreps, irreps, 1)
        assert fresh(torch.ones(1, 1, 4), torch.ones(1, 1, 4)).dtype == torch.float32


@pytest.mark.parametrize("kind", ["cg_stacked", "matrix"])
def test_even_irreps_couple_with_odd_sums_too(kind):
    irreps = natural_irreps(2, parity=False)
    product = TensorProduct(kind, irreps, irreps, irreps, 1, weights="none").double()
    x = torch.zeros(1, 1, 9).double()
    y = x.clone()
    x[0, 0, 1], y[0, 0, 2] = 1.0, 1.0
    z = product(x, y)[0, 0]
    assert size(z[1:4]) > 0.1  # the cross product of two vectors
    turn = rotation()
    matrix = wigner_matrix(irreps, turn)
    assert size(product(x @ matrix.T, y @ matrix.T) - product(x, y) @ matrix.T) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_components_have_unit_variance(kind):
    product = make(kind, channels=1).float()
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4000, 1, width(product.irreps_x), generator=generator)
    y = torch.randn(4000, 1, width(product.irreps_y), generator=generator)
    with torch.no_grad():
        product.weight.fill_(1.0)
        z = product(x, y)
    begin = 0
    for irrep in product.irreps_out:
        assert float(z[..., begin : begin + irrep.dim].square().mean()) == pytest.approx(1.0, abs=0.12), irrep
        begin += irrep.dim


@pytest.mark.parametrize("mode", ["uuu", "uvu", "uvw"])
@pytest.mark.parametrize("weights", ["shared", "rows", "none"])
def test_clebsch_gordan_kinds_are_equal(mode, weights):
    options = {"mode": mode, "channels_y": 3 if mode != "uuu" else 2, "channels_out": 4, "weights": weights}
    products = [make(kind, **options) for kind in CG]
    x, y = inputs(products[0])
    weight = None
    if weights == "rows":
        weight = torch.randn(3, *products[0].weight_shape, generator=torch.Generator().manual_seed(3)).double()
    for product in products[1:]:
        product.load_state_dict(products[0].state_dict())
    first, *others = (product(x, y, weight) for product in products)
    for other in others:
        assert torch.allclose(first, other, atol=1e-13)


@pytest.mark.parametrize("mode", ["uuu", "uvu", "uvw"])
def test_no_rows_and_no_paths(mode):
    for kind in CG:
        product = make(kind, mode=mode)
        assert product(*inputs(product, rows=0)).shape == (0, 2, 25)
    irreps = natural_irreps(1)
    for kind in CG:
        empty = TensorProduct(kind, irreps, irreps, irreps, 2, mode=mode, paths=[]).double()
        found = empty(*inputs(empty))
        assert found.shape == (3, 2, 4) and not found.any()


@pytest.mark.parametrize("mode", ["uuu", "uvu", "uvw"])
def test_product_is_that_of_e3nn(mode):
    irreps = parse_irreps("0e+1o+2e")
    channels, of_y, of_out = 3, {"uuu": 3, "uvu": 2, "uvw": 2}[mode], {"uvw": 4}.get(mode, 3)
    product = TensorProduct(
        "cg_stacked", irreps, irreps, irreps, channels, mode=mode, channels_y=of_y, channels_out=of_out, weights="rows"
    ).double()
    names = ["+".join(f"{count}x{irrep}" for irrep in irreps) for count in (channels, of_y, of_out)]
    instructions = [(p.x, p.y, p.out, mode, True, 1.0) for p in product.paths]
    other = o3.TensorProduct(
        names[0],
        names[1],
        names[2],
        instructions,
        shared_weights=False,
        internal_weights=False,
        irrep_normalization="component",
        path_normalization="element",
    ).double()
    x, y = inputs(product)
    weight = torch.randn(3, *product.weight_shape, generator=torch.Generator().manual_seed(3)).double()

    def flat(value):
        parts, begin = [], 0
        for irrep in irreps:
            parts.append(value[..., begin : begin + irrep.dim].flatten(1))
            begin += irrep.dim
        return torch.cat(parts, dim=1)

    expected = other(flat(x), flat(y), weight.flatten(1))
    assert size(flat(product(x, y, weight)) - expected) < 1e-6  # e3nn's constants are single precision


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives(kind):
    product = make(kind, l_max=1, channels=1, weights="rows")
    x, y = inputs(product, rows=2)
    weight = torch.randn(2, *product.weight_shape, generator=torch.Generator().manual_seed(3)).double()
    values = [value.requires_grad_() for value in (x, y, weight)]
    assert torch.autograd.gradcheck(product, values)
    assert torch.autograd.gradgradcheck(product, values)


@pytest.mark.parametrize("kind", CG)
def test_pruned_paths_are_gone_and_the_rest_is_unchanged(kind):
    whole = make(kind)
    kept = whole.paths[::3]
    factors = [1.0] * len(whole.paths)
    dense = make(kind, coefficients=factors)
    pruned = make(kind, paths=kept, coefficients=factors[: len(kept)])
    numbers = [whole.paths.index(path) for path in kept]
    with torch.no_grad():
        pruned.weight.copy_(dense.weight[numbers])
        others = [number for number in range(len(whole.paths)) if number not in numbers]
        dense.weight[others] = 0.0
    x, y = inputs(whole)
    assert torch.allclose(pruned(x, y), dense(x, y), atol=1e-13)
    assert pruned.weight.numel() == len(kept) * 2
    assert pruned.flops() < whole.flops()


@pytest.mark.parametrize("kind", ["gaunt_grid", "gaunt_fourier", "matrix"])
def test_irreps_without_a_path_cost_nothing(kind):
    whole = make(kind)
    kept = [path for path in whole.paths if path.out <= 1 and path.x <= 1 and path.y <= 1]
    pruned = make(kind, paths=kept, weights="none")
    x, y = inputs(whole)
    z = pruned(x, y)
    assert pruned.flops() < whole.flops()
    assert size(z[..., 4:]) == 0.0
    again = x.clone()
    again[..., 4:] += 1.0
    assert torch.equal(pruned(again, y), z)


def test_gaunt_grid_is_the_integral_of_three_harmonics_and_aliases_below_its_latitudes():
    irreps, out = natural_irreps(2), natural_irreps(4)
    points, weights = quadrature(30)
    of_in, of_out = (spherical_harmonics_at([i.degree for i in row], points) for row in (irreps, out))
    table = torch.einsum("n,na,nb,nc->abc", weights, of_in, of_in, of_out) * math.sqrt(4 * math.pi)
    x, y = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)).double(), torch.randn(9, 5).double()
    expected = torch.einsum("abc,ar,br->cr", table, x, y)
    exact = GridGaunt((irreps, irreps, out)).double()
    assert size(exact(x, y) - expected) < 1e-12
    coarse = GridGaunt((irreps, irreps, out), latitudes=math.ceil((2 + 2 + 4 + 1) / 2) - 1).double()
    assert size(coarse(x, y) - expected) > 1e-3


@pytest.mark.parametrize("l_max", [1, 2, 3])
def test_expressivity_is_that_of_the_paper(l_max):
    paths = len(all_paths(natural_irreps(l_max), natural_irreps(l_max), natural_irreps(2 * l_max)))
    assert make("cg_stacked", l_max).expressivity() == paths == {1: 5, 2: 14, 3: 30}[l_max]
    for kind in ("gaunt_grid", "gaunt_fourier", "matrix"):
        assert make(kind, l_max).expressivity() == 4 * l_max + 1


def test_vector_gaunt_has_the_cross_product_and_gaunt_has_not():
    vectors = vector_basis(1, -1)[0]
    position = vectors.index(Irrep(1, -1))
    product = make("vector_gaunt", 1, channels=1, weights="none")
    x, y = torch.zeros(1, 1, width(vectors)).double(), torch.zeros(1, 1, width(vectors)).double()
    begin = sum(irrep.dim for irrep in vectors[:position])
    x[0, 0, begin], y[0, 0, begin + 1] = 1.0, 1.0
    z, swapped = product(x, y), product(y, x)
    assert size(z) > 0.1
    assert torch.allclose(z, -swapped, atol=1e-14)
    plain = make("gaunt_grid", 1, channels=1, weights="none")
    a, b = inputs(plain)
    assert torch.allclose(plain(a, b), plain(b, a), atol=1e-13)


@pytest.mark.parametrize("parity", [True, False])
def test_so2_convolution_turns_with_its_inputs(parity):
    convolution = SO2Convolution(3, 2, parity=parity).double()
    x = torch.randn(4, 2, 16, generator=torch.Generator().manual_seed(0)).double()
    direction = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).double()
    turn = rotation(improper=parity)
    matrix = wigner_matrix(convolution.irreps, turn)
    turned = convolution(x @ matrix.T, direction @ turn.T)
    assert size(turned - convolution(x, direction) @ matrix.T) < 1e-12


@pytest.mark.parametrize("parity", [True, False])
def test_so2_convolution_reaches_what_paths_with_harmonics_reach(parity):
    """As many independent maps as Clebsch-Gordan paths with all harmonics, and each of them among those."""
    l_max = 2
    irreps, harmonics = natural_irreps(l_max, parity=parity), natural_irreps(2 * l_max, parity=parity)
    convolution = SO2Convolution(l_max, 1, parity=parity).double()
    paths = all_paths(irreps, harmonics, irreps)
    assert convolution.expressivity() == len(paths)
    direction = torch.tensor([[0.3, -0.5, 0.8]]).double()
    y = spherical_harmonics_at(range(2 * l_max + 1), direction / direction.norm()).unsqueeze(1)
    x = torch.eye(9).double().unsqueeze(1)
    columns = []
    for path in paths:
        product = TensorProduct("cg_dense", irreps, harmonics, irreps, 1, paths=[path], weights="none").double()
        columns.append(product(x, y.expand(9, -1, -1)).flatten())
    basis = torch.stack(columns, dim=1)
    target = convolution(x, direction.expand(9, -1)).detach().flatten()
    solution = torch.linalg.lstsq(basis, target.unsqueeze(1)).solution
    assert size((basis @ solution).squeeze(1) - target) < 1e-10


def test_so2_convolution_mixes_channels():
    convolution = SO2Convolution(2, 3, 5, mode="uvw", parity=False).double()
    x, direction = torch.randn(4, 3, 9).double(), torch.randn(4, 3).double()
    assert convolution(x, direction).shape == (4, 5, 9)
    values = [x.requires_grad_(), direction.requires_grad_()]
    assert torch.autograd.gradcheck(convolution, values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "cg_stakced"}, "did you mean 'cg_stacked'"),
        ({"irreps_x": "2x1o"}, "'2x1o' is not a degree with a parity"),
        ({"mode": "uuv"}, "mode is uuu, uvu or uvw"),
        ({"paths": [Path(0, 0, 1)]}, "is no coupling of 0e"),
        ({"kind": "matrix", "irreps_x": "0e+1e", "irreps_y": "0e+1o", "irreps_out": "0e+1o"}, "natural parities"),
        ({"kind": "gaunt_grid", "coefficients": [1.0]}, "no coefficients of paths"),
        ({"kind": "vector_gaunt"}, "takes the irreps of vector fields"),
        ({"channels_y": 3}, "channel by channel"),
    ],
)
def test_bad_arguments(arguments, message):
    good = {"kind": "cg_stacked", "irreps_x": "0e+1o", "irreps_y": "0e+1o", "irreps_out": "0e+1o", "channels": 2}
    with pytest.raises(ConfigError, match=message):
        TensorProduct(**{**good, **arguments})


def test_wrong_weights_are_said():
    product = make("cg_stacked", weights="rows")
    x, y = inputs(product)
    with pytest.raises(ConfigError, match=r"takes weights of shape \[3, 14, 2\], got none"):
        product(x, y)


def test_a_factor_that_all_channels_share_gives_the_same_by_another_way():
    x_irreps, y_irreps = "0e+1o+2e", "0e+1o+2e+3o"
    product = TensorProduct(
        "cg_stacked", x_irreps, y_irreps, "0e+1o+1e+2e+4e", 5, channels_y=1, weights="rows"
    ).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 7, 5, generator=generator).double().requires_grad_()
    y = torch.randn(16, 7, 1, generator=generator).double().requires_grad_()
    weight = torch.randn(product.weight_shape[0], 7, 5, generator=generator).double().requires_grad_()
    found = product.multiply(x, y, weight)
    expected = product.multiply(x, y.expand(-1, -1, 5), weight)
    assert found.shape == (21, 7, 5)
    gradients = [torch.autograd.grad(z.square().sum(), (x, y, weight), create_graph=True) for z in (found, expected)]
    assert torch.allclose(found, expected, atol=1e-13)
    for mine, theirs in zip(*gradients, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-11)


@pytest.mark.parametrize("active", [None, [0, 3, 4, 9]])
def test_both_orders_are_two_products_with_the_same_weights(active):
    irreps = natural_irreps(2, parity=False)  # odd sums of degrees change sign with the order
    paths = all_paths(irreps, irreps, irreps)
    factors = torch.linspace(0.5, 1.5, len(paths)).tolist()
    one = StackedCG((irreps, irreps, irreps), paths, factors).double()
    both = StackedCG((irreps, irreps, irreps), paths, factors, both_orders=True).double()
    generator = torch.Generator().manual_seed(0)
    count = len(paths) if active is None else len(active)
    x, y, weight = (
        torch.randn(size, 4, generator=generator, dtype=torch.float64, requires_grad=True) for size in (9, 9, count)
    )

    def looped(x, y, weight):
        return torch.cat([one(x, y, weight, active), one(y, x, weight, active)], dim=1)

    def shared(x, y, weight):
        return both(x, y, weight, active)

    assert torch.allclose(shared(x, y, weight), looped(x, y, weight), atol=1e-12)
    assert torch.allclose(shared(x, y, None), looped(x, y, None), atol=1e-12)
    slope = torch.randn(9, 8, generator=generator, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(shared(x, y, weight), (x, y, weight), slope),
        torch.autograd.grad(looped(x, y, weight), (x, y, weight), slope),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-12)
    assert torch.autograd.gradgradcheck(shared, (x[:, :1], y[:, :1], weight[:, :1]))
