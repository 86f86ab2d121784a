"""SPE: symmetries, stability, special cases, and every way of evaluating it. Budget: 15 s."""

import math
from itertools import pairwise

import networkx as nx
import pytest
import torch

from geomlib.errors import ConfigError, DataError
from geomlib.graphs.spectral import LaplacianModes
from geomlib.models.spe.columnwise import BasisNet
from geomlib.models.spe.encoder import SPE, PairSPE
from geomlib.models.spe.encoding import LaplacianEncoding
from geomlib.models.spe.phi import PHI, Lipschitz
from geomlib.models.spe.rho import RHO

F64 = torch.float64
SMALL = {"layers": 2, "width": 7, "mlp_width": 6}
RHOS = {"gin": SMALL, "gin_deepsets": SMALL, "ppgn": SMALL, "mlp": {"width": 7}, "ign": {"width": 7}}
SYMMETRIC = [nx.petersen_graph(), nx.cycle_graph(8), nx.disjoint_union(nx.complete_graph(4), nx.star_graph(5))]


def edges_of(nets):
    index, first = [], 0
    for net in nets:
        own = torch.tensor(list(net.edges), dtype=torch.int64).reshape(-1, 2).T + first
        index += [own, own.flip(0)]
        first += len(net)
    return torch.cat(index, 1)


def batch_of(nets, d, guard="drop"):
    """Eigenvalues, eigenvectors, edges, graph of each node, number of modes."""
    sizes = torch.tensor([len(net) for net in nets])
    edges = edges_of(nets)
    starts = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    values, vectors, count = LaplacianModes(d, guard=guard).modes(edges, starts)
    return values, vectors, edges, torch.repeat_interleave(torch.arange(len(nets)), sizes), count


def encoder(d=10, rho="gin", phi="mlp", seed=0, m=4, **options):
    torch.manual_seed(seed)
    net = SPE(d, m, 5, phi=phi, rho={"kind": rho, **RHOS[rho]}, **options).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net


def rotated(values, vectors, seed=0):
    """Another orthonormal basis of every eigenspace of one graph."""
    generator = torch.Generator().manual_seed(seed)
    out = vectors.clone()
    starts = [0, *((values.diff() > 1e-8).nonzero().flatten() + 1).tolist(), len(values)]
    for first, last in pairwise(starts):
        q, _ = torch.linalg.qr(torch.randn(last - first, last - first, generator=generator, dtype=F64))
        out[:, first:last] = vectors[:, first:last] @ q
    return out


@pytest.mark.parametrize("net", SYMMETRIC, ids=["petersen", "cycle", "two parts"])
@pytest.mark.parametrize(("phi", "rho"), [*((phi, "gin") for phi in PHI), *(("mlp", rho) for rho in RHO)])
def test_signs_bases_and_order_do_not_matter(phi, rho, net):
    spe = encoder(len(net), rho, phi)
    values, vectors, edges, batch, _ = batch_of([net], len(net))
    expected = spe(values, vectors, edges, batch)
    scale = expected.abs().max()
    signs = torch.where(torch.arange(len(net)) % 2 == 0, 1.0, -1.0).to(F64)
    for other in (vectors * signs, rotated(values[0], vectors)):
        assert (other - vectors).abs().max() > 0.1
        assert (spe(values, other, edges, batch) - expected).abs().max() <= 1e-10 * max(1.0, scale)
    order = torch.randperm(len(net), generator=torch.Generator().manual_seed(1))
    relabelled = spe(values, vectors[order], order.argsort()[edges], batch)
    assert (relabelled - expected[order]).abs().max() <= 1e-10 * max(1.0, scale)
    assert expected.std() > 1e-3


def test_the_guard_is_what_keeps_a_cut_spectrum_invariant():
    values, vectors, edges, batch, count = batch_of([nx.petersen_graph()], 4, guard="keep")
    other = vectors.clone()
    full = batch_of([nx.petersen_graph()], 10)
    other[:, 1:] = rotated(full[0][0], full[1])[:, 1:4]  # other three of the five vectors of eigenvalue 2/3
    spe = encoder(4)
    assert (spe(values, vectors, edges, batch) - spe(values, other, edges, batch)).abs().max() > 1e-3
    assert count.tolist() == [4]
    guarded = batch_of([nx.petersen_graph()], 4)
    assert guarded[4].tolist() == [1] and spe(*guarded).isfinite().all()


@pytest.mark.parametrize("rho", RHO)
@pytest.mark.parametrize("phi", PHI)
def test_a_batch_gives_what_its_graphs_give_alone(phi, rho):
    nets = [nx.path_graph(6), nx.empty_graph(1), nx.cycle_graph(4), nx.random_labeled_tree(9, seed=1), nx.path_graph(4)]
    spe = encoder(6, rho, phi)
    values, vectors, edges, batch, count = batch_of(nets, 6)
    together = spe(values, vectors, edges, batch, count)
    alone = torch.cat([spe(*batch_of([net], 6)) for net in nets])
    torch.testing.assert_close(together, alone, rtol=1e-11, atol=1e-11)


def test_padding_is_read_off_eigenvectors_where_no_count_is_given():
    nets = [nx.path_graph(3), nx.path_graph(7)]
    spe = encoder(7, phi="deepsets")
    values, vectors, edges, batch, count = batch_of(nets, 7)
    assert torch.equal(spe(values, vectors, edges, batch, count), spe(values, vectors, edges, batch))


def perturbed(net, size, seed=0):
    """Laplacian of a complete weighted graph, and of one whose weights differ by `size`."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    adjacency = torch.from_numpy(nx.to_numpy_array(net))
    noise = torch.rand(len(net), len(net), generator=generator, dtype=F64)
    for scale in (0.0, size):
        weights = adjacency * (1.0 + scale * (noise + noise.T))
        root = weights.sum(1).rsqrt()
        laplacian = torch.eye(len(net), dtype=F64) - root[:, None] * weights * root
        out.append((laplacian, *torch.linalg.eigh(laplacian)))
    return out


def changes(encode, net, sizes):
    """|ΔL| and |ΔPE| for perturbations of these sizes."""
    found = []
    for size in sizes:
        (one, values, vectors), (two, other_values, other_vectors) = perturbed(net, size)
        change = encode(other_values[None], other_vectors) - encode(values[None], vectors)
        found.append((float((two - one).norm()), float(change.detach().norm())))
    return torch.tensor(found, dtype=F64).log10()


SIZES = [10.0**-k for k in range(1, 7)]


@pytest.mark.parametrize("phi", ["mlp", "deepsets", "transformer", "spline", "lipschitz"])
def test_the_encoding_changes_as_much_as_the_graph(phi):
    """Slope of log |ΔPE| over log |ΔL|, on a graph with repeated eigenvalues and all modes; 1 is proportional."""
    net = nx.petersen_graph()
    spe, edges = encoder(10, phi=phi), edges_of([net])
    points = changes(lambda values, vectors: spe(values, vectors, edges), net, SIZES)
    slope = (points[0, 1] - points[-1, 1]) / (points[0, 0] - points[-1, 0])
    assert slope > 0.9
    assert (points[:, 1].diff() < 0).all()


def test_others_jump_where_it_does_not():
    net = nx.petersen_graph()
    edges = edges_of([net])
    torch.manual_seed(0)
    basis = BasisNet(10, 5, width=8).double().eval()
    laplacian = LaplacianEncoding(10, trivial=True).eval()
    for encoding in (basis, laplacian):
        points = changes(lambda values, vectors, e=encoding: e(values, vectors, edges), net, SIZES)
        # smaller changes of the graph, none of the jump, until BasisNet takes the eigenvalues for equal
        assert points[3, 1] > points[0, 1] - 0.5
        assert points[3, 1] > -2.0


def test_slope_of_phi_bounds_the_change_of_pairs():
    """|W − W′| ≤ K |L − L′| for a φ of slope K at most, on 100 random pairs of graphs."""
    torch.manual_seed(0)
    for bound in (0.3, 2.0):
        phi = Lipschitz(3, bound=bound).double()
        with torch.no_grad():
            for parameter in phi.parameters():
                parameter.mul_(3.0)
        largest = 0.0
        for seed in range(50):
            net = nx.gnp_random_graph(9, 0.5, seed=seed)
            net.add_edges_from(nx.path_graph(9).edges)
            (one, *first), (two, *second) = perturbed(net, 10.0 ** -(seed % 4), seed)
            pairs = []
            for values, vectors in (first, second):
                weights = phi(values[None], torch.ones(1, 9, dtype=torch.bool))[0]
                pairs.append(torch.einsum("uk,km,jk->ujm", vectors, weights, vectors))
            ratio = (pairs[1] - pairs[0]).flatten(0, 1).norm(dim=0) / (two - one).norm()
            largest = max(largest, float(ratio.detach().max()))
        assert 0.01 * bound < largest <= bound * (1 + 1e-9)


def test_pairs_of_a_linear_phi_are_the_laplacian_and_of_ones_the_identity():
    net = nx.disjoint_union(nx.petersen_graph(), nx.path_graph(3))
    values, vectors, _, batch, count = batch_of([net], len(net))
    every = torch.cartesian_prod(torch.arange(13), torch.arange(13)).T
    spe = encoder(13, phi="spline")
    spe.phi.fit_line(1.0)
    found = spe.pairs(values, vectors, every, batch, count).view(13, 13, 4)
    expected = torch.from_numpy(nx.normalized_laplacian_matrix(net).toarray())
    for channel in range(4):
        torch.testing.assert_close(found[..., channel], expected, rtol=0, atol=1e-13)
    ones = encoder(13, phi="ones").pairs(values, vectors, every, batch, count).view(13, 13, 4)
    torch.testing.assert_close(ones[..., 2], torch.eye(13, dtype=F64), rtol=0, atol=1e-13)


def test_pairs_of_several_graphs():
    nets = [nx.path_graph(5), nx.cycle_graph(4)]
    spe = encoder(5)
    values, vectors, edges, batch, count = batch_of(nets, 5)
    found = spe.pairs(values, vectors, edges, batch, count)
    first = int((batch[edges[0]] == 0).sum())
    alone = [spe.pairs(*(x for x in batch_of([net], 5)[:2]), edges_of([net])) for net in nets]
    torch.testing.assert_close(found[:first], alone[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[first:], alone[1], rtol=0, atol=1e-12)
    edge = PairSPE(5, 4, 3).double()
    assert edge(values, vectors, edges, batch, count).shape == (edges.shape[1], 3)


@pytest.mark.parametrize("norm", ["layer", "batch", "none"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("rho", ["gin", "mlp"])
def test_pieces_and_folding_change_neither_values_nor_gradients(norm, activation, rho):
    """Folded and in pieces, folded at once, and layer by layer with W: the same in training."""
    nets = [nx.path_graph(6), nx.cycle_graph(5), nx.random_labeled_tree(9, seed=1), nx.cycle_graph(6)]
    options = {"kind": rho, **RHOS[rho], "norm": norm, "activation": activation}
    outcomes = []
    for way in ("pieces", "whole", "plain"):
        if way == "plain" and rho == "mlp":
            continue
        torch.manual_seed(0)
        spe = SPE(7, 4, 5, rho=options, recompute="none" if way == "whole" else "auto", piece_rows=20).double()
        if rho == "gin":
            with torch.no_grad():
                for at, layer in enumerate(spe.rho.layers):
                    layer.eps.fill_(0.3 - at)
        if way == "plain":
            spe.rho.forward = lambda *args, spe=spe, padded=False: spe.rho._plain(*args[:4], padded=padded)
        values, vectors, edges, batch, count = batch_of(nets, 7)
        values.requires_grad_()
        vectors.requires_grad_()
        out = spe(values, vectors, edges, batch, count)
        gradients = torch.autograd.grad(out.square().sum(), [values, vectors, *spe.parameters()])
        buffers = [buffer for name, buffer in spe.named_buffers() if "tracked" not in name]
        outcomes.append([out, *gradients, *buffers])
    for other in outcomes[1:]:
        for one, two in zip(outcomes[0], other, strict=True):
            torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-9)
    assert all(tensor.abs().sum() > 0 for tensor in outcomes[0][1:3])


def test_derivative_is_that_of_finite_differences():
    nets = [nx.path_graph(3), nx.cycle_graph(4), nx.path_graph(3)]
    spe = encoder(4, recompute="none")
    values, vectors, edges, batch, count = batch_of(nets, 4)
    parts = [values.requires_grad_(), vectors.requires_grad_()]
    assert torch.autograd.gradcheck(lambda a, b: spe(a, b, edges, batch, count), parts)


def test_large_graphs_sum_neighbours_sparsely_and_can_take_some_columns():
    net = nx.random_regular_graph(3, 240, seed=1)
    spe = encoder(8, piece_rows=5000)
    values, vectors, edges, batch, count = batch_of([net], 8)
    exact = spe(values, vectors, edges, batch, count)
    import geomlib.models.spe.packing as packing

    dense_from, packing.SPARSE_FROM = packing.SPARSE_FROM, 1000
    try:
        torch.testing.assert_close(spe(values, vectors, edges, batch, count), exact, rtol=1e-10, atol=1e-10)
    finally:
        packing.SPARSE_FROM = dense_from
    spe.columns = 60
    some = spe(values, vectors, edges, batch, count)
    assert torch.equal(some, spe(values, vectors, edges, batch, count))  # the same columns in evaluation
    generator = torch.Generator().manual_seed(3)
    draws = torch.stack([spe(values, vectors, edges, batch, count, generator) for _ in range(40)])
    error, deviation = (draws.mean(0) - exact).norm(), draws.std(0).norm()
    assert 0 < error < 3.0 * deviation / math.sqrt(40)  # unbiased
    spe.columns = 240
    assert torch.equal(spe(values, vectors, edges, batch, count), exact)


def test_the_mean_of_columns_is_their_sum_over_the_number_of_nodes():
    nets = [nx.path_graph(6), nx.cycle_graph(4)]
    batch = batch_of(nets, 6)
    mean, total = encoder(6, pool="mean")(*batch), encoder(6)(*batch)
    torch.testing.assert_close(mean * torch.tensor([6.0] * 6 + [4.0] * 4, dtype=F64)[:, None], total)


def test_single_nodes_and_batches_of_them_train():
    nets = [nx.empty_graph(1), nx.empty_graph(1)]
    for norm in ("layer", "batch"):
        for graphs in (nets, nets[:1]):
            spe = SPE(3, 4, 5, rho={"kind": "gin", **SMALL, "norm": norm}).double()
            out = spe(*batch_of(graphs, 3))
            out.sum().backward()
            assert out.isfinite().all() and out.shape == (len(graphs), 5)


def test_precision_follows_the_parameters_and_autocast_is_left_out():
    spe = encoder().float()
    batch = batch_of([nx.petersen_graph()], 10)
    single = spe(*batch)
    assert single.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(spe(*batch), single)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d": 0}, "d = 0"),
        ({"d": 4, "m": 0}, "m = 0"),
        ({"d": 4, "phi": "mpl"}, "did you mean 'mlp'"),
        ({"d": 4, "rho": "gim"}, "did you mean 'gin'"),
        ({"d": 4, "rho": {"kind": "gin", "depth": 2}}, "unexpected keyword argument 'depth'"),
        ({"d": 4, "rho": {"norm": "bach"}}, "did you mean 'batch'"),
        ({"d": 4, "phi": {"kind": "lipschitz", "bound": -1.0}}, "expected a positive"),
        ({"d": 4, "phi": {"kind": "transformer", "heads": 3}}, "3 heads don't divide"),
        ({"d": 4, "pool": "max"}, "expected 'sum' or 'mean'"),
        ({"d": 4, "recompute": "always"}, "expected 'auto' or 'none'"),
        ({"d": 4, "rho": {"activation": "gelu"}}, "activation 'gelu'"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SPE(**options)


def test_wrong_modes_are_refused():
    values, vectors, edges, batch, _ = batch_of([nx.petersen_graph()], 6)
    with pytest.raises(DataError, match="wants 10 Laplacian modes, the graphs have 6"):
        encoder(10)(values, vectors, edges, batch)
    with pytest.raises(DataError, match="build them by LaplacianModes"):
        encoder(10)(None, None, edges, batch)
    with pytest.raises(ConfigError, match="no sum over columns"):
        encoder(6, "ppgn", columns=3)(values, vectors, edges, batch)
