"""Three things to do with hyperedges: rank nodes, predict links, and describe molecules.

    python scripts/hypergraph_uses.py MODEL [GRAPH --truth FILE]

MODEL is a SHyRe model, e.g. of `geomlib fit -c shyre/smoke`. Without GRAPH (an edge list) and its true hyperedges a
made-up bibliography is used.
"""

import argparse

import numpy as np
from rdkit import Chem
from scipy.stats import rankdata, spearmanr

from geomlib.apply.reconstruct import match_labels, reconstruct
from geomlib.data.hypergraphs import Hypergraph, read_hyperedges
from geomlib.data.undirected import UndirectedGraph, read_graph
from geomlib.testing.hypergraphs import coauthors

GROUPS = {"carboxyl": "C(=O)[OX2H1]", "amide": "C(=O)N", "ester": "C(=O)O[#6]", "hydroxyl": "[CX4][OX2H1]"}
"""Functional group → SMARTS."""


def rank(model: str, graph: UndirectedGraph, true: Hypergraph) -> None:
    """Rank nodes by the number of hyperedges they are in; the degree in the graph counts large ones too often."""
    found = reconstruct(model, graph).hypergraph
    for name, score in (("degree in the graph", graph.degree), ("reconstructed hyperedges", found.degree)):
        print(f"  {name:<26} Spearman {spearmanr(score, true.degree)[0]:.3f} with the true number of hyperedges")


def auc(score: np.ndarray, label: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half."""
    positive = label.sum()
    return (rankdata(score)[label].sum() - positive * (positive + 1) / 2) / (positive * (len(label) - positive))


def logistic(x: np.ndarray, y: np.ndarray, steps: int = 50) -> np.ndarray:
    """Weights of a logistic regression with a small ridge, by Newton's method."""
    w = np.zeros(x.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        w -= np.linalg.solve((x.T * (p * (1 - p))) @ x + np.eye(len(w)), x.T @ (p - y) + w)
    return w


def links(model: str, graph: UndirectedGraph, seed: int = 0) -> None:
    """Hide a tenth of the edges; tell them from pairs at random, with and without hyperedges of what is left."""
    rng = np.random.default_rng(seed)
    hidden = rng.random(len(graph.edges)) < 0.1
    left = UndirectedGraph(graph.num_nodes, graph.edges[~hidden])
    found = reconstruct(model, left, cover=True).hypergraph
    shared = found.project(weighted=True)
    pairs = rng.integers(0, graph.num_nodes, (20 * int(hidden.sum()), 2))
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    pairs = pairs[~np.isin(pairs[:, 0] * graph.num_nodes + pairs[:, 1], graph.keys)]
    near = np.asarray(left.adjacency[pairs[:, 0]].multiply(left.adjacency[pairs[:, 1]]).sum(axis=1)).reshape(-1)
    pairs = np.concatenate([pairs[near > 0], pairs[near == 0][: int(hidden.sum())]])  # hard ones first
    both = np.concatenate([graph.edges[hidden], pairs])
    label = np.arange(len(both)) < hidden.sum()
    u, v = both.T
    adjacency = left.adjacency.astype(float)
    inverse = adjacency.multiply(1 / np.maximum(left.degree, 1)).tocsr()
    weight = adjacency.copy().tocsr()
    ends = np.concatenate([shared.edges, shared.edges[:, ::-1]])
    order = np.lexsort((ends[:, 1], ends[:, 0]))
    weight.data = np.concatenate([shared.weight] * 2)[order].astype(float)
    rows = lambda a, b: np.log1p(np.asarray(a[u].multiply(b[v]).sum(axis=1)).reshape(-1))  # noqa: E731
    plain = [rows(adjacency, adjacency), rows(inverse, adjacency), np.log1p(left.degree[u] * left.degree[v])]
    more = [rows(weight, weight), rows(weight, inverse), np.log1p(found.degree[u] * found.degree[v])]
    train = rng.random(len(both)) < 0.5
    for name, columns in (("pairs of the graph", plain), ("and of hyperedges", plain + more)):
        x = np.stack([np.ones(len(both)), *columns], axis=1)
        score = x @ logistic(x[train], label[train].astype(float))
        print(f"  features from {name:<20} AUC {auc(score[~train], label[~train]):.3f} of {int(hidden.sum())} links")


def molecule_hypergraph(smiles: str) -> tuple[Hypergraph, list[str]]:
    """Rings and functional groups of a molecule as hyperedges on its atoms, with a name for each."""
    molecule = Chem.MolFromSmiles(smiles)
    named = {tuple(sorted(ring)): f"ring of {len(ring)}" for ring in molecule.GetRingInfo().AtomRings()}
    for name, smarts in GROUPS.items():
        for match in molecule.GetSubstructMatches(Chem.MolFromSmarts(smarts)):
            named.setdefault(tuple(sorted(match)), name)
    found = Hypergraph.from_sets(named, molecule.GetNumAtoms())
    return found, [named[row] for row in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("graph", nargs="?")
    parser.add_argument("--truth")
    args = parser.parse_args()
    if args.graph:
        graph = read_graph(args.graph)
        true = match_labels(read_hyperedges(args.truth), graph) if args.truth else None
    else:
        true = coauthors(1500, seed=77)
        graph = true.project()
    print(f"{graph}\nranking nodes")
    if true is not None:
        rank(args.model, graph, true)
    print("predicting links")
    links(args.model, graph)
    print("molecules: aspirin")
    found, names = molecule_hypergraph("CC(=O)Oc1ccccc1C(=O)O")
    for row, name in zip(found, names, strict=True):
        print(f"  {name:<10} atoms {' '.join(map(str, row))}")


if __name__ == "__main__":
    main()
