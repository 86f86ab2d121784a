"""The frame of a pair: what turns and reflections do there, sums over degrees and products of orders."""

import pytest
import torch

from geomlib.models.sphnet.expansion import block_irreps
from geomlib.models.sphnet.frame import FrameLayout
from geomlib.models.sphnet.frame_layers import FrameProduct, sum_over_degrees
from geomlib.nn.tensor_product import TensorProduct, all_paths, natural_irreps, wigner_matrix
from geomlib.nn.tensor_product.grid import spherical_harmonics_at
from geomlib.nn.tensor_product.so2 import aligned_frames, rotation_blocks, wigner_blocks


@pytest.mark.parametrize("parity", [True, False])
def test_what_turns_and_reflections_do_in_the_frame(parity):
    irreps = block_irreps((3, 2, 1), natural_irreps(4)) if parity else natural_irreps(4, parity=False)
    layout = FrameLayout(irreps, parity=parity).double()
    assert sum(layout.reals) + sum(layout.imaginaries) == layout.components
    direction = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double()
    frames = aligned_frames(direction)
    turns = layout.turns(rotation_blocks(4, direction))
    assert torch.allclose(turns @ turns.transpose(1, 2), torch.eye(layout.components).double(), atol=1e-13)
    x = torch.randn(layout.components, 2, generator=torch.Generator().manual_seed(1)).double()

    def orders(values):
        sizes = [size for pair in zip(layout.reals, layout.imaginaries, strict=True) for size in pair]
        parts = iter(values.split(sizes, dim=-2))
        return list(zip(parts, parts, strict=True))

    half_turn = frames @ torch.diag(torch.tensor([1.0, -1, -1])).double()
    expected = layout.turns(wigner_blocks(4, half_turn)) @ x
    assert torch.allclose(layout.reversed(turns @ x), expected, atol=1e-13)
    assert torch.allclose(half_turn[:, :, 1], -frames[:, :, 1], atol=1e-15)

    cosine, sine = torch.tensor(0.7).cos(), torch.tensor(0.7).sin()
    about = torch.tensor([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]]).double()
    for order, (before, after) in enumerate(
        zip(orders(turns @ x), orders(layout.turns(wigner_blocks(4, frames @ about)) @ x), strict=True)
    ):
        if order == 0:
            assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(before, after, strict=True))
        else:
            turn = torch.polar(torch.tensor(1.0), torch.tensor(-0.7 * order)).to(torch.complex128)
            assert torch.allclose(turn * torch.complex(*before), torch.complex(*after), atol=1e-6)

    if parity:
        mirror = frames @ torch.diag(torch.tensor([-1.0, 1, 1])).double() @ frames.transpose(1, 2)
        reflected = torch.stack([wigner_matrix(irreps, each) for each in mirror]) @ x
        for before, after in zip(orders(turns @ x), orders(turns @ reflected), strict=True):
            assert torch.allclose(before[0], after[0], atol=1e-12)
            assert torch.allclose(before[1], -after[1], atol=1e-12)


def test_sums_over_degrees_are_products_with_harmonics():
    """With a weight for every degree in and out they span what Clebsch-Gordan paths with all harmonics span."""
    l_max = 2
    irreps, harmonics = natural_irreps(l_max), natural_irreps(2 * l_max)
    layout = FrameLayout(irreps, parity=True).double()
    direction = torch.tensor([[0.3, -0.5, 0.8]]).double()
    turns = layout.turns(rotation_blocks(l_max, direction))[0]
    x = torch.eye(9).double()
    y = spherical_harmonics_at(range(2 * l_max + 1), direction).unsqueeze(1)
    basis = []
    for path in all_paths(irreps, harmonics, irreps):
        product = TensorProduct("cg_dense", irreps, harmonics, irreps, 1, paths=[path], weights="none").double()
        basis.append(product(x.unsqueeze(1), y.expand(9, -1, -1)).flatten())
    maps = []
    for number, order in enumerate(order for order, count in enumerate(layout.reals) for _ in range(count)):
        weight = torch.zeros(sum(layout.reals), 1, 1).double()
        weight[number] = 1.0
        reals, imaginaries = sum_over_degrees(layout, turns @ x, weight.expand(-1, 1, 9))
        for degree in range(order, l_max + 1):
            back = torch.zeros(9, 9).double()
            begin = sum(layout.reals[:order]) + sum(layout.imaginaries[:order]) + degree - order
            back[begin] = reals[order]
            if order:
                back[begin + layout.reals[order]] = imaginaries[order]
            maps.append((turns.T @ back).T.flatten())
    spanned, found = torch.stack(basis), torch.stack(maps)
    assert int(torch.linalg.matrix_rank(spanned, rtol=1e-9)) == len(basis) == len(maps)
    assert int(torch.linalg.matrix_rank(torch.cat([spanned, found]), rtol=1e-9)) == len(basis)
    assert int(torch.linalg.matrix_rank(found, rtol=1e-9)) == len(basis)


def test_products_of_orders_are_products_on_a_circle():
    """With weights 1 those of two real functions of the angle, and what they leave out is beyond the largest order."""
    l_max = 3
    product = FrameProduct(l_max, 2).double()
    with torch.no_grad():
        for weight in product.weight:
            weight.fill_(1.0)
    generator = torch.Generator().manual_seed(0)

    def orders():
        reals, imaginaries = torch.randn(2, l_max + 1, 5, 2, generator=generator).double()
        imaginaries[0] = 0.0
        return list(reals), list(imaginaries)

    angles = 2 * torch.pi * torch.arange(32) / 32

    def on_circle(x):
        total = x[0][0].unsqueeze(0).expand(32, -1, -1)
        for order in range(1, l_max + 1):
            phase = (order * angles).double().view(-1, 1, 1)
            total = total + 2 * (x[0][order] * phase.cos() - x[1][order] * phase.sin())
        return total

    x, y = orders(), orders()
    z = product(x, y)
    spectrum = torch.fft.fft(on_circle(x) * on_circle(y), dim=0) / 32
    for order in range(l_max + 1):
        found = torch.complex(z[0][order] - x[0][order], z[1][order] - x[1][order])
        assert torch.allclose(found, spectrum[order], atol=1e-6)
