"""Frames along a direction: exact and smooth where the direction is the polar axis, as angles would not be."""

import torch

from geomlib.nn.tensor_product import Irrep, SO2Convolution, wigner_matrix
from geomlib.nn.tensor_product.grid import spherical_harmonics_at
from geomlib.nn.tensor_product.so2 import aligned_frames, rotation_blocks

NEARLY_POLAR = [[0, 1, 0], [0, -2, 0], [1e-9, 1, 0], [1e-5, -1, 1e-9], [-1e-17, 1, 1e-13], [1, 1, 1], [0, 0, -1]]


def size(value: torch.Tensor) -> float:
    return float(value.detach().abs().max())


def rotation() -> torch.Tensor:
    matrix = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double())[0]
    return matrix * torch.linalg.det(matrix)


def test_frames_are_exact_along_the_polar_axis_too():
    direction = torch.tensor(NEARLY_POLAR).double().requires_grad_()
    frames, blocks = aligned_frames(direction), rotation_blocks(6, direction)
    assert size(torch.linalg.det(frames) - 1) < 1e-14
    (slope,) = torch.autograd.grad(sum(block.sum() for block in blocks), direction, retain_graph=True)
    assert bool(slope.isfinite().all())
    pole = torch.tensor([[0.0, 1, 0]]).double()
    for degree, block in enumerate(blocks):
        for row in range(len(direction)):
            assert size(block[row] - wigner_matrix([Irrep(degree, 1)], frames[row].detach())) < 1e-13
        ahead = spherical_harmonics_at([degree], direction.detach())
        assert size(block @ spherical_harmonics_at([degree], pole)[0] - ahead) < 1e-13


def test_so2_convolution_along_the_polar_axis():
    """The result is smooth where angles of the direction are not, and turns with the inputs."""
    convolution = SO2Convolution(4, 2, parity=False).double()
    direction = torch.tensor(NEARLY_POLAR).double()
    x = torch.randn(1, 2, 25, generator=torch.Generator().manual_seed(0)).double().expand(len(direction), -1, -1)
    turn = rotation()
    matrix = wigner_matrix(convolution.irreps, turn)
    found = convolution(x, direction)
    assert size(convolution(x @ matrix.T, direction @ turn.T) - found @ matrix.T) < 1e-12
    assert 1e-10 < size(found[2] - found[0]) < 1e-7
    direction.requires_grad_()
    assert torch.autograd.gradcheck(lambda d: convolution(x[:2], d), [direction[:2]], eps=1e-7, atol=1e-6)
