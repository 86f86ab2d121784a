"""Losses on matrices: which entries count, what orbitals see, and what training with them does to their energies."""

import pytest
import torch

from geomlib.data.cards import CardStore
from geomlib.data.graph import collate
from geomlib.errors import ConfigError, DataError
from geomlib.models import SPHNet
from geomlib.nn.orbitals import generalised_eigenproblem
from geomlib.tasks.hamiltonian_terms import HamiltonianTerm
from geomlib.tasks.matrices import matrix_stacks

SIZE = 7  # of water in a minimal basis


def net():
    torch.manual_seed(0)
    options = {"channels": 16, "bottleneck": 8, "short_layers": 1, "heads": 2, "vector_functions": 16, "functions": 8}
    return SPHNet(["H", "O"], basis="sto-3g", **options)


def waters(count, of=None):
    store, spec = CardStore("water-orbitals", "train"), (of or net()).spec
    return collate([spec.build(store[k]) for k in range(count)])


def disturbed(batch, seed=0):
    noise = torch.randn(len(batch.hamiltonian), generator=torch.Generator().manual_seed(seed)).double()
    noise = noise.view(-1, SIZE, SIZE)
    return batch.hamiltonian + 0.05 * (noise + noise.mT).flatten()


def value(term, prediction, batch, **options):
    total, count = term.sums(prediction, batch, **options)
    return term.of_mean(float(total / count))


def test_blocks_count_each_pair_once():
    batch = waters(2)
    prediction = disturbed(batch)
    error = (prediction - batch.hamiltonian).view(2, SIZE, SIZE)
    atom = torch.tensor([0] * 5 + [1, 2])  # oxygen has 5 orbitals, and stands first
    assert batch.atomic_number.tolist() == [8, 1, 1] * 2
    chosen = (atom.unsqueeze(1) >= atom).expand_as(error)
    for loss, expected in (
        ("mae", error[chosen].abs().mean()),
        ("mse", error[chosen].square().mean()),
        ("rmse", error[chosen].square().mean().sqrt()),
    ):
        assert value(HamiltonianTerm(compare="blocks", loss=loss), prediction, batch) == pytest.approx(float(expected))
        assert value(HamiltonianTerm(loss=loss), prediction, batch) != pytest.approx(float(expected), rel=1e-3)


def test_a_shift_of_one_level_is_seen_there_and_nowhere_else():
    batch = waters(2)
    s = batch.overlap.view(2, SIZE, SIZE)
    c = generalised_eigenproblem(batch.hamiltonian.view(2, SIZE, SIZE), s).coefficients
    shift = torch.zeros(2, SIZE, SIZE).double()
    shift[0, 3, 3] = 0.01
    prediction = batch.hamiltonian + (s @ c @ shift @ c.mT @ s).flatten()
    assert value(HamiltonianTerm(compare="levels", loss="mae"), prediction, batch) == pytest.approx(0.01 / SIZE / 2)
    moved = generalised_eigenproblem(prediction.view(2, SIZE, SIZE), s).energies
    assert float(moved[0, 3]) == pytest.approx(float((c[0].T @ batch.hamiltonian[:49].view(7, 7) @ c[0])[3, 3]) + 0.01)
    mixing = torch.zeros(2, SIZE, SIZE).double()
    mixing[1, 0, 2] = mixing[1, 2, 0] = 0.01
    prediction = batch.hamiltonian + (s @ c @ mixing @ c.mT @ s).flatten()
    found = value(HamiltonianTerm(compare="levels", loss="mae"), prediction, batch)
    assert found == pytest.approx(2 * 0.01 / (SIZE * (SIZE - 1)) / 2)
    expected = (prediction - batch.hamiltonian).view(2, SIZE, SIZE) @ c
    assert value(HamiltonianTerm(compare="residuals"), prediction, batch) == pytest.approx(
        float(expected.square().mean())
    )


def test_degenerate_levels_have_one_loss():
    batch = waters(1)
    s, h = (values.view(SIZE, SIZE) for values in (batch.overlap, batch.hamiltonian))
    c = generalised_eigenproblem(h, s).coefficients
    levels = torch.tensor([-20.0, -1, -0.5, -0.5, -0.5, 0.3, 0.3]).double()
    inverse = torch.linalg.inv(c)
    prediction = disturbed(batch)
    found = []
    for seed in range(3):  # rounding decides which orbitals the solver returns
        rounding = 1e-12 * torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(seed)).double()
        rounding = rounding + rounding.T
        batch.hamiltonian = (inverse.T @ levels.diag() @ inverse + rounding).flatten()
        found.append(value(HamiltonianTerm(compare="levels", loss="mae"), prediction, batch))
    assert max(found) - min(found) < 1e-7 * found[0]


def test_molecules_without_a_label_are_left_out():
    batch = waters(3)
    prediction = disturbed(batch)
    whole = [value(HamiltonianTerm(compare=name), prediction, batch) for name in ("levels", "blocks")]
    first = waters(1)
    only = [value(HamiltonianTerm(compare=name), prediction[:49], first) for name in ("levels", "blocks")]
    batch.hamiltonian[49:] = float("nan")
    wanted = prediction.clone().requires_grad_()
    for k, name in enumerate(("levels", "blocks")):
        assert value(HamiltonianTerm(compare=name), prediction, batch, partial=True) == pytest.approx(only[k])
        assert whole[k] != pytest.approx(only[k])
        total, _ = HamiltonianTerm(compare=name).sums(wanted, batch, partial=True)
        (gradient,) = torch.autograd.grad(total, wanted)
        assert bool(gradient.isfinite().all()) and not gradient[49:].any() and gradient[:49].any()


def test_molecules_of_different_sizes_are_solved_together():
    from geomlib.data.graph import GraphData

    model = net()
    lone = GraphData(pos=torch.zeros(1, 3).double(), atomic_number=torch.tensor([8]))
    batch = collate([model.spec.build(CardStore("water-orbitals", "test")[0]), model.spec.build(lone)][:1] * 2)
    stacks = list(matrix_stacks(batch, batch.hamiltonian, batch.overlap))
    assert [members.tolist() for members, _ in stacks] == [[0, 1]]
    graphs = [GraphData(pos=torch.eye(n, 3).double(), atomic_number=torch.tensor([8, 1, 1][:n])) for n in (1, 3, 2, 3)]
    batch = collate([model.spec.build(graph) for graph in graphs])
    entries = torch.arange(float(len(batch.entry_slot)))
    found = {tuple(members.tolist()): rows for members, (rows,) in matrix_stacks(batch, entries)}
    assert {members: rows.shape for members, rows in found.items()} == {
        (0,): (1, 5, 5),
        (2,): (1, 6, 6),
        (1, 3): (2, 7, 7),
    }
    assert torch.equal(found[1, 3][1].flatten(), entries[25 + 49 + 36 :])


def energy_error(matrices, batch):
    s = batch.overlap.view(-1, SIZE, SIZE)
    found, true = (
        generalised_eigenproblem(rows.detach().view(-1, SIZE, SIZE), s).energies
        for rows in (matrices, batch.hamiltonian)
    )
    return float((found - true).abs().mean())


def test_going_down_the_levels_alone_leads_to_the_orbital_energies():
    batch = waters(8)
    term = HamiltonianTerm(compare="levels", loss="mse")
    matrices = disturbed(batch).requires_grad_()
    start = energy_error(matrices, batch)
    optimizer = torch.optim.Adam([matrices], lr=0.01)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 300)
        total, count = term.sums(matrices, batch)
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    assert energy_error(matrices, batch) < 0.01 * start


def test_a_net_learns_orbital_energies_with_the_term_levels():
    batch = waters(8)
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    terms = (
        HamiltonianTerm(loss="mae"),
        HamiltonianTerm(loss="mse"),
        HamiltonianTerm(compare="levels", loss="mae", weight=0.3),
    )
    for step in range(100):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 100)
        prediction = model(batch)["hamiltonian"]
        sums = [(term, *term.sums(prediction, batch)) for term in terms]
        optimizer.zero_grad()
        sum(term.weight * total / count for term, total, count in sums).backward()
        optimizer.step()
    assert energy_error(model(batch)["hamiltonian"], batch) < 0.2 * energy_error(batch.initial_hamiltonian, batch)


def test_bad_terms_are_said():
    with pytest.raises(ConfigError, match="compare is entries, blocks, levels, residuals; got 'orbitals'"):
        HamiltonianTerm(compare="orbitals")
    batch = waters(1)
    del batch.overlap
    with pytest.raises(DataError, match=r"the loss compares orbitals \('levels'\), which needs the field 'overlap'"):
        HamiltonianTerm(compare="levels").sums(batch.hamiltonian, batch)
