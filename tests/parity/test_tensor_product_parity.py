"""Tensor products against numbers of e3nn, SPHNet's construction and the code of "The Price of Freedom".

Budget: 5 s. The data (see its README) stands beside the repository.
"""

import json
from pathlib import Path as FilePath

import numpy as np
import pytest
import torch

from geomlib.nn.tensor_product import Path, TensorProduct, natural_irreps
from geomlib.nn.tensor_product.gaunt import FourierGaunt, GridGaunt, VectorGaunt
from geomlib.nn.tensor_product.grid import quadrature, spherical_harmonics_at
from geomlib.nn.tensor_product.irreps import wigner_3j
from geomlib.nn.tensor_product.matrix import MatrixProduct

DATA = FilePath(__file__).parents[2].parent / "shared" / "data" / "sphnet_parity"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/sphnet_parity")


def case(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    arrays = np.load(DATA / f"{name}.npz", allow_pickle=False)
    found = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    return json.loads((DATA / f"{name}.json").read_text()), {
        key: value.double() if value.is_floating_point() else value for key, value in found.items()
    }


def close(value: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-8) -> None:
    assert float((value.detach() - expected).abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))


def unflatten(flat: torch.Tensor, l_max: int, channels: int) -> torch.Tensor:
    """From degree by degree, channel by channel, to [rows, channels, components]."""
    parts = [
        flat[:, channels * degree**2 : channels * (degree + 1) ** 2].view(len(flat), channels, 2 * degree + 1)
        for degree in range(l_max + 1)
    ]
    return torch.cat(parts, dim=2)


@pytest.mark.parametrize("name", ["tp_uuu_all_L2", "tp_uuu_all_L4", "tp_uuu_parity_L4", "tp_uvu_L2", "tp_uvu_L4"])
@pytest.mark.parametrize("kind", ["cg_stacked", "cg_dense", "cg_sparse"])
def test_weighted_products(name, kind):
    config, data = case(name)
    l_max, channels = config["L"], config["C"]
    irreps = natural_irreps(l_max, parity=config["parity"])
    paths = [Path(*map(int, row)) for row in data["out.paths"]]
    product = TensorProduct(
        kind,
        irreps,
        irreps,
        irreps,
        channels,
        mode=config["mode"],
        channels_y=1 if config["mode"] == "uvu" else channels,
        paths=paths,
        weights="rows",
        coefficients=data["out.coeff"].tolist(),
    ).double()
    weight = data["in.w"].view(len(data["in.w"]), *product.weight_shape)
    y = unflatten(data["in.y"], l_max, 1 if config["mode"] == "uvu" else channels)
    z = product(unflatten(data["in.x"], l_max, channels), y, weight)
    close(z, unflatten(data["out.z"], l_max, channels))


@pytest.mark.parametrize("name", ["tp_unweighted_L2", "tp_unweighted_L4"])
def test_unweighted_products(name):
    config, data = case(name)
    irreps, out = natural_irreps(config["L"]), natural_irreps(2 * config["L"])
    x, y = data["in.x"].T, data["in.y"].T
    close(GridGaunt((irreps, irreps, out)).double()(x, y).T, data["out.gaunt"])
    close(FourierGaunt((irreps, irreps, out)).double()(x, y).T, data["out.gaunt"])
    for factor in ("norm", "component"):
        close(MatrixProduct((irreps, irreps, out), factor=factor).double()(x, y).T, data[f"out.matrix_{factor}"])
    raw, normed = [], []
    for l1, l2, l3 in data["out.paths"].tolist():
        a, b = data["in.x"][:, l1**2 : (l1 + 1) ** 2], data["in.y"][:, l2**2 : (l2 + 1) ** 2]
        raw.append(torch.einsum("ra,rb,abc->rc", a, b, wigner_3j(l1, l2, l3)))
        normed.append(raw[-1] * ((2 * l1 + 1) * (2 * l2 + 1)) ** 0.5)
    close(torch.cat(raw, dim=1), data["out.cg_raw"])
    close(torch.cat(normed, dim=1), data["out.cg_norm"])


@pytest.mark.parametrize("name", [f"tp_vector_gaunt_{kind}" for kind in ("l1_odd", "l1_even", "l2_odd", "l2_even")])
def test_vector_gaunt(name):
    _, data = case(name)
    product = VectorGaunt([data[f"in.basis_{which}"] for which in ("x", "y", "out")]).double()
    close(product(data["in.x"].T, data["in.y"].T).T, data["out.out"])


def test_gaunt_table():
    _, data = case("gaunt_table_L4")
    (name,) = (key for key in data if key.startswith("out."))
    points, weights = quadrature(16)
    of_in, of_out = (spherical_harmonics_at(range(top + 1), points) for top in (4, 8))
    close(torch.einsum("n,na,nb,nc->abc", weights, of_in, of_in, of_out), data[name])
