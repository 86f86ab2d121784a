"""Blocks of a matrix from spherical features, and back."""

import pytest
import torch

from geomlib.models import SPHNet
from geomlib.models.sphnet.expansion import BlockExpansion, block_irreps
from geomlib.nn.tensor_product import Irrep, natural_irreps
from geomlib.nn.tensor_product.irreps import wigner_3j


@pytest.mark.parametrize("shells", [(3, 2, 1), (5, 5, 2, 1)])
def test_features_to_a_block_and_back(shells):
    """With all l between |la − lb| and la + lb the coupling is a change of basis: nothing is lost, nothing is free."""
    generator = torch.Generator().manual_seed(0)
    for la in range(len(shells)):
        for lb in range(len(shells)):
            block = torch.randn(2 * la + 1, 2 * lb + 1, generator=generator, dtype=torch.float64)
            back = torch.zeros_like(block)
            for degree in range(abs(la - lb), la + lb + 1):
                w = wigner_3j(la, lb, degree).double()
                features = torch.einsum("abm,ab->m", w, block)
                back += (2 * degree + 1) * torch.einsum("abm,m->ab", w, features)
            assert torch.allclose(back, block, atol=1e-12)


@pytest.mark.parametrize("parity", [False, True])
def test_a_block_is_the_sum_over_couplings(parity):
    shells, channels = (2, 1, 1), 3
    natural = natural_irreps(4, parity=parity)
    irreps = (*natural, *(Irrep(irrep.degree, -irrep.parity) for irrep in natural)) if parity else natural
    layer = BlockExpansion(shells, irreps, channels, 4, 4).double()
    generator = torch.Generator().manual_seed(1)
    width = sum(irrep.dim for irrep in irreps)
    features = torch.randn(width, 1, channels, generator=generator, dtype=torch.float64)
    weight = torch.randn(1, sum(layer.weight_sizes), generator=generator, dtype=torch.float64)
    bias = torch.randn(1, sum(layer.bias_sizes), generator=generator, dtype=torch.float64)
    found = layer.expand(features, weight, bias)[0]
    expected = torch.zeros(2 + 3 + 5, 2 + 3 + 5, dtype=torch.float64)
    firsts, begin = (0, 2, 5), 0
    biases = iter(bias[0].split(layer.bias_sizes))
    for degree in range(5):
        for la in range(3):
            for lb in range(3):
                if not abs(la - lb) <= degree <= la + lb:
                    continue
                size = channels * shells[la] * shells[lb]
                w = weight[0, begin : begin + size].view(channels, shells[la], shells[lb])
                begin += size
                number = irreps.index(Irrep(degree, (-1) ** (la + lb) if parity else 1))
                place = sum(irrep.dim for irrep in irreps[:number])
                mixed = torch.einsum("mc,cuv->uvm", features[place : place + 2 * degree + 1, 0], w)
                if degree == 0:
                    mixed = mixed + next(biases).view(shells[la], shells[lb], 1)
                coupled = torch.einsum("abm,uvm->uavb", wigner_3j(la, lb, degree).double(), mixed) / channels
                rows, columns = shells[la] * (2 * la + 1), shells[lb] * (2 * lb + 1)
                expected[firsts[la] : firsts[la] + rows, firsts[lb] : firsts[lb] + columns] += coupled.reshape(
                    rows, columns
                )
    assert begin == weight.shape[1]
    assert torch.allclose(found, expected, atol=1e-12)


def test_pairs_have_the_irreps_that_blocks_need():
    natural = natural_irreps(4)
    assert block_irreps((3, 2, 1), natural) == (*natural, Irrep(1, 1), Irrep(2, -1), Irrep(3, 1))
    assert block_irreps((2, 1), natural_irreps(2)) == (*natural_irreps(2), Irrep(1, 1))
    assert block_irreps((2,), natural_irreps(0)) == natural_irreps(0)
    assert block_irreps((2, 0, 1), natural) == (*natural, Irrep(1, 1), Irrep(3, 1))  # no shell of degree 1
    BlockExpansion((3, 2, 1), block_irreps((3, 2, 1), natural), 2, 4, 4)  # finds all of its irreps


def test_gates_behind_products_are_as_wide_as_said():
    options = {"basis": "sto-3g", "channels": 4, "short_layers": 1, "heads": 2, "delta": False}
    for more, irreps, width in (
        ({}, 4, 4 * 4),  # degrees 0, 1, 2 of atoms, and 1e of pairs beside them
        ({"pair_irreps": "all"}, 6, 6 * 4),
        ({"gate_width": 10}, 4, 10),
    ):
        net = SPHNet(["H", "O"], **options, **more)
        for layer in (*net.diagonal, *net.pairs):
            assert layer.gate.gate[0].weight.shape == (width, irreps * 4)
