"""Orbitals of matrices, and how two sets of them are compared."""

import numpy as np
import pytest
import scipy.linalg
import torch

from geomlib.nn.orbitals import Orbitals, compare_orbitals, generalised_eigenproblem, settled_orbitals


def matrices(size=6, seed=0):
    rng = np.random.default_rng(seed)
    h, s = rng.normal(size=(size, size)), rng.normal(size=(size, size))
    return torch.from_numpy(h + h.T), torch.from_numpy(s @ s.T + size * np.eye(size))


def test_energies_and_coefficients_are_those_of_scipy():
    h, s = matrices()
    found = generalised_eigenproblem(h, s)
    assert np.allclose(found.energies, scipy.linalg.eigh(h.numpy(), s.numpy())[0], atol=1e-12)
    c = found.coefficients
    assert torch.allclose(c.T @ s @ c, torch.eye(6).double(), atol=1e-12)
    assert torch.allclose(h @ c, s @ c * found.energies, atol=1e-11)
    batch = generalised_eigenproblem(torch.stack([h, 2 * h]), torch.stack([s, s]))
    assert torch.allclose(batch.energies[1], 2 * found.energies, atol=1e-12)


def test_equal_orbitals_and_a_shift():
    h, s = matrices()
    true = generalised_eigenproblem(h, s)
    same = compare_orbitals(true, true, s, 2)
    assert float(same.subspace) == pytest.approx(1.0, abs=1e-12)
    assert float(same.cosine) == pytest.approx(1.0, abs=1e-12)
    moved = compare_orbitals(generalised_eigenproblem(h + 0.1 * s, s), true, s, 2)
    assert torch.allclose(moved.occupied, torch.full((2,), 0.1).double(), atol=1e-12)
    assert float(moved.gap) == pytest.approx(0.0, abs=1e-12)
    assert float(moved.homo) == pytest.approx(0.1)


def test_a_turn_inside_a_degenerate_level_is_seen_by_the_cosine_only():
    energies = torch.diag(torch.tensor([0.0, 1.0, 1.0, 2.0]).double())
    s = torch.eye(4).double()
    true = generalised_eigenproblem(energies, s)
    angle = torch.tensor(0.7).double()
    turn = torch.eye(4).double()
    turn[1:3, 1:3] = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    other = type(true)(true.energies, true.coefficients @ turn)
    found = compare_orbitals(other, true, s, 3)
    assert float(found.subspace) == pytest.approx(1.0, abs=1e-12)
    assert float(found.cosine) < 0.9


def test_orbitals_of_a_level_are_settled_by_the_perturbation():
    _, s = matrices(6)
    c = generalised_eigenproblem(*matrices(6)).coefficients
    levels = torch.tensor([-3.0, -1, -1, 0, 2, 2]).double()
    energies = torch.stack([levels, torch.arange(6.0).double()])
    perturbation = matrices(6, seed=3)[0]
    turn = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(0)).double())[0]
    turned = c @ torch.block_diag(torch.eye(1), turn, torch.eye(1), turn.T).double()
    found = []
    for basis in (c, turned):
        orbitals = Orbitals(energies, torch.stack([basis, basis]))
        settled = settled_orbitals(orbitals, torch.stack([perturbation, perturbation]))
        assert torch.equal(settled[1], basis)  # nothing is degenerate
        assert torch.allclose(settled[0].T @ s @ settled[0], torch.eye(6).double(), atol=1e-12)
        elements = settled[0].T @ perturbation @ settled[0]
        assert abs(float(elements[1, 2])) < 1e-12 and abs(float(elements[4, 5])) < 1e-12
        found.append(elements.abs())
    assert torch.allclose(found[0], found[1], atol=1e-12)
    assert not torch.allclose((c.T @ perturbation @ c).abs(), (turned.T @ perturbation @ turned).abs(), atol=1e-2)
