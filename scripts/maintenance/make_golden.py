"""Write the golden files that the current version of each family lacks.

A golden file is a tiny net of random weights with inputs and the outputs it gave when it was written. It is kept for
ever: later versions must load it and predict the same (`tests/golden`). Existing files are never changed.

    python scripts/maintenance/make_golden.py
"""

import argparse
import hashlib
import inspect
import json
import math
from pathlib import Path

import torch

from geomlib.data.elements import atomic_numbers
from geomlib.data.graph import GraphData
from geomlib.data.hypergraphs import Hypergraph
from geomlib.data.molecules import from_smiles
from geomlib.files.manifest import manifest_of
from geomlib.files.modelfile import load, save
from geomlib.models import (
    DMPNN,
    DPA3,
    GINE,
    GPS,
    MIST,
    CombinedNet,
    ConductivityNet,
    ExcessNet,
    MISTProperty,
    MixtureNet,
    MultiHeadDPA3,
    QHNet,
    SHyRe,
    SO2Net,
    SPHNet,
)

FOLDER = Path(__file__).parents[2] / "tests" / "golden"
INDEX = FOLDER / "index.json"
SMALL = {"node_dim": 12, "edge_dim": 8, "angle_dim": 4, "layers": 2, "fitting_layers": [12, 12], "precision": "float64"}
TINY = {**SMALL, "node_dim": 8, "layers": 1}
ORBITALS = {"basis": "sto-3g", "channels": 2, "bottleneck": 1, "functions": 3}
ENCODER = {"layers": 2, "width": 8, "heads": 2, "feedforward": 12, "positions": 40}
MAX_BYTES = 60_000

GRAPH = {"hidden": 8, "head_layers": [6]}

NETS = {
    "combined": {
        "two": lambda: CombinedNet(
            ["a"],
            {"graph": {"family": "dmpnn", **GRAPH}, "mean": {"family": "dmpnn", "hidden": 5, "aggregation": "mean"}},
            descriptors=["NumHDonors", "ecfp"],
            fingerprint_size=16,
            head_layers=[6],
        ),
    },
    "dmpnn": {
        "plain": lambda: DMPNN(["a", {"name": "b", "kind": "binary"}], **GRAPH),
        "options": lambda: DMPNN(
            [{"name": "a", "unit": "s", "normalizer": "log"}, {"name": "b", "normalizer": "power"}],
            hidden=8,
            depth=4,
            aggregation="sum",
            undirected=True,
            activation="silu",
            bias=True,
            descriptors=["NumHAcceptors", "RingCount"],
            hydrogens=True,
            chirality="none",
            head="residual",
            head_layers=[10, 10],
        ),
    },
    "dpa3": {
        "dynamic": lambda: DPA3(["O", "H"], **SMALL),
        "fixed": lambda: DPA3(
            ["H", "C", "O"],
            **SMALL,
            selection="fixed",
            max_neighbors=10,
            max_angle_neighbors=6,
            switch="quintic",
            smooth_edge_update=False,
            edge_init="inverse_distance",
            update_style="average",
            edge_messages=2,
            angle_compression=2,
            angle_edge_compression=1,
            split_compression=False,
            activation="silu",
            fitting_activation="tanh",
            fitting_timestep=False,
            excluded_pairs=[["C", "H"]],
        ),
        "charged": lambda: DPA3(
            ["H", "O"],
            **{**SMALL, "node_dim": 6, "edge_dim": 6},
            update_order="sequential",
            residual_init="normal",
            type_embedding="electron_configuration",
            type_embedding_bias=True,
            concat_type_embedding=True,
            charge_spin_embedding=True,
            default_charge_spin=[0, 1],
            dataset_encoding=2,
        ),
    },
    "dpa3-multihead": {
        "separate": lambda: MultiHeadDPA3(
            ["water", "clusters"], elements=["O", "H"], **TINY, head_fitting_layers={"water": [8]}
        ),
        "shared": lambda: MultiHeadDPA3(
            ["water", "clusters"], elements=["C", "H", "O"], **TINY, fitting="shared", dataset_encoding=3
        ),
        "biases": lambda: MultiHeadDPA3(
            ["water", "clusters"],
            elements=["C", "H", "O"],
            **{**TINY, "fitting_layers": [6, 6]},
            fitting="shared",
            dataset_biases=True,
        ),
    },
    "excess": {
        "points": lambda: ExcessNet(["a", "b"], {"family": "mist-property", **ENCODER}, interactions="difference"),
        "law": lambda: ExcessNet(
            ["a"],
            {"family": "dmpnn", **GRAPH},
            interactions="concat",
            controls=2,
            temperature="arrhenius",
            relative=True,
            curve="redlich-kister",
        ),
        "only": lambda: ExcessNet(
            ["a"], {"family": "combined", "descriptors": ["TPSA", "RingCount"]}, interactions="softmax", linear=False
        ),
    },
    "ionic-conductivity": {
        "plain": lambda: ConductivityNet("ln_k", {"family": "mist-property", **ENCODER, "pool": "first"}),
    },
    "mixture": {
        "warm": lambda: MixtureNet(["a", {"name": "b", "kind": "binary"}], {"family": "dmpnn", **GRAPH}),
    },
    "mist": {
        "tokens": lambda: MIST(**ENCODER, pool="mean", descriptors=["MolWt", "TPSA"]),
        "published": lambda: MIST(**ENCODER, compat_pad_token_id=1, template=True, form="canonical"),
    },
    "mist-property": {
        "residual": lambda: MISTProperty(["a", {"name": "b", "kind": "binary"}], **ENCODER),
        "first": lambda: MISTProperty(
            ["a"], **ENCODER, position_offset=3, pool="first", head="plain", head_layers=[5], truncate=True
        ),
    },
    "shyre": {
        "all": lambda: SHyRe(hidden=[6], members=2, covers=2, cover_candidates=True, max_cells=8),
        "published": lambda: SHyRe.published("motif"),
    },
    "sphnet": {
        "delta": lambda: SPHNet(["H", "O"], **ORBITALS, short_layers=1, long_layers=1, heads=2, vector_functions=4),
    },
    "qhnet": {
        "whole": lambda: QHNet(["H", "O"], **ORBITALS, layers=4, delta=False),
    },
    "so2net": {
        "delta": lambda: SO2Net(["H", "O"], **ORBITALS, layers=4),
        "rotations": lambda: SO2Net(["H", "O"], **ORBITALS, layers=4, copies=1, delta=False, parity=False),
    },
    "gine": {
        "spe": lambda: GINE(
            ["a", {"name": "b", "kind": "binary"}],
            encoding={"kind": "spe", "d": 7, "m": 3, "p": 4, "rho": {"kind": "gin", "layers": 2, "width": 5}},
            node_types=3,
            edge_types=2,
            width=6,
            layers=2,
            injection="input+layers",
        ),
        "distance": lambda: GINE(
            ["a"],
            encoding={
                "kind": "spe",
                "d": 7,
                "m": 2,
                "phi": {"kind": "spline", "pieces": 4},
                "rho": {"kind": "mlp", "width": 5},
            },
            node_types=3,
            width=6,
            layers=2,
            norm="layer",
            combine="distance",
            pooling="node",
        ),
        "signnet": lambda: GINE(
            ["a"],
            encoding={"kind": "signnet", "d": 7, "layers": 2, "width": 5},
            node_types=3,
            width=6,
            layers=1,
            combine="concat",
            pooling="add",
        ),
    },
    "gps": {
        "edges": lambda: GPS(
            ["a"],
            encoding={"kind": "spe_edges", "d": 7, "m": 3, "mlp_width": 5, "phi": {"kind": "deepsets", "width": 4}},
            node_types=3,
            edge_types=2,
            width=8,
            layers=2,
            heads=2,
        ),
    },
}
"""Family → name of the file → a fresh net."""


def randomise(net: torch.nn.Module, generator: torch.Generator) -> None:
    """Give every parameter and stored buffer a random value (the statistics a positive one)."""
    with torch.no_grad():
        for name, value in net.state_dict().items():
            draw = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            scale = 1.0 / math.sqrt(value.shape[-1]) if value.ndim == 2 else 0.3
            positive = name == "environment_stddev" or name.endswith("running_var")
            value.copy_(0.3 + 0.05 * draw.abs() if positive else scale * draw)
        if hasattr(net, "environment_mean"):
            net.environment_mean.zero_()
        if isinstance(net, SHyRe):  # buffers that are no free numbers: cells n, k, r; columns; heads that learned
            net.cells.zero_()
            net.cells[:4] = torch.tensor([[3, 2, 1.0], [4, 3, 1.0], [4, 2, 1.0], [5, 2, 0.5]])
            net.columns.copy_(torch.arange(len(net.columns)))
            net.constant.fill_(0.5)
            net.calibration.copy_(torch.tensor([[0.8, 0.1], [1.2, -0.3]]))
            net.threshold.fill_(0.4)
            net.source_recall.fill_(0.9)


def molecules(net: torch.nn.Module, generator: torch.Generator) -> list[GraphData]:
    """Water, and two atoms, with the matrix that a net may add to."""
    graphs = []
    for numbers in ([8, 1, 1], [1, 8]):
        pos = torch.tensor([[0.0, 0, 0], [0.9, 0.2, 0.1], [-0.3, 0.8, 0.4]])[: len(numbers)].double()
        pos = pos + 0.1 * torch.randn(pos.shape, generator=generator, dtype=torch.float64)
        graph = GraphData(pos=pos, atomic_number=torch.tensor(numbers))
        if net.delta:
            orbitals = len(net.layout.orbitals(graph.atomic_number)[0])
            graph.initial_hamiltonian = torch.randn(orbitals**2, generator=generator, dtype=torch.float64)
        graphs.append(graph)
    return graphs


def structures(net: torch.nn.Module, generator: torch.Generator) -> list[GraphData]:
    """A molecule, a skewed periodic cell and a slab."""
    elements = net.elements
    numbers = torch.tensor(atomic_numbers([elements[k % len(elements)] for k in range(5)]))
    grid = torch.tensor([[0.0, 0, 0], [1.1, 0.2, 0], [0.3, 1.2, 0.1], [0.1, 0.4, 1.3], [1.2, 1.3, 1.1]]).double()
    graphs = []
    for size, pbc in ((0.0, [False] * 3), (3.6, [True] * 3), (4.1, [True, True, False])):
        pos = grid + 0.1 * torch.randn(5, 3, generator=generator, dtype=torch.float64)
        cell = size * torch.tensor([[[1.0, 0, 0], [0.2, 1, 0], [0.1, -0.1, 1]]]).double()
        graphs.append(GraphData(pos=pos, atomic_number=numbers, cell=cell, pbc=torch.tensor([pbc])))
    return graphs


def mixtures(net: torch.nn.Module, generator: torch.Generator) -> list[GraphData]:
    """A chiral molecule, a salt, and a mixture."""
    return [
        from_smiles("C[C@H](N)C(=O)Oc1ccccc1"),
        from_smiles("[Na+].[Cl-]"),
        from_smiles(["CCO", "O", "F/C=C/C#N"], mole_fraction=[0.5, 0.125, 0.375]),
    ]


def short_mixtures(net: torch.nn.Module, generator: torch.Generator) -> list[GraphData]:
    """A molecule and a mixture of few tokens, each of which has as many logits as there are ids."""
    return [from_smiles("NC#N"), from_smiles(["O", "[Na+]"], mole_fraction=[0.25, 0.75])]


def warm_mixtures(net: torch.nn.Module, generator: torch.Generator) -> list[GraphData]:
    """A molecule, a pair with a component that is absent, and a mixture, each at a temperature."""
    return [
        from_smiles("CC(N)=O", temperature=298.15),
        from_smiles(["O", "CC#N"], mole_fraction=[0.0, 1.0], temperature=273.5),
        from_smiles(["CCO", "O", "F/C=C/C#N"], mole_fraction=[0.5, 0.125, 0.375], temperature=350.0),
    ]


def networks(net: torch.nn.Module, generator: torch.Generator) -> list[GraphData]:
    """A path, a ring with a tail, and a single node."""
    graphs = []
    for pairs, nodes in (
        ([(0, 1), (1, 2), (2, 3)], 4),
        ([(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (4, 5), (5, 6)], 7),
        ([], 1),
    ):
        edges = sorted([*pairs, *((b, a) for a, b in pairs)], key=lambda edge: edge[::-1])
        graphs.append(
            GraphData(
                node_type=torch.arange(nodes) % 3,
                edge_index=torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).T.contiguous(),
                edge_type=torch.tensor([sum(edge) % 2 for edge in edges], dtype=torch.int64),
            )
        )
    return graphs


def hypergraphs(net: torch.nn.Module, generator: torch.Generator) -> list[GraphData]:
    """Projections of two small hypergraphs with nested sets, an uncovered triangle and a lonely node."""
    first = [[0, 1, 2, 3], [0, 1, 2], [3, 4, 5], [4, 5, 6], [3, 5, 6], [5, 6], [7]]
    second = [[0, 1, 2, 3, 4], [1, 2, 5], [2, 5, 6], [6, 7], [5, 7, 8, 9], [3, 9]]
    return [Hypergraph.from_sets(sets).project().to_data() for sets in (first, second)]


INPUTS = {
    "combined": mixtures,
    "dmpnn": mixtures,
    "excess": warm_mixtures,
    "gine": networks,
    "gps": networks,
    "ionic-conductivity": warm_mixtures,
    "mist": short_mixtures,
    "mist-property": mixtures,
    "mixture": warm_mixtures,
    "qhnet": molecules,
    "so2net": molecules,
    "shyre": hypergraphs,
    "sphnet": molecules,
}
"""Family → what makes its inputs from the net and random numbers; `structures` where it is not listed."""


def as_lists(fields: dict[str, torch.Tensor]) -> dict[str, list]:
    return {name: value.tolist() for name, value in fields.items()}


def write(family: str, name: str) -> dict:
    """Write one golden file; return its row of the index."""
    generator = torch.Generator().manual_seed(20260101)
    net = NETS[family][name]()
    randomise(net, generator)
    stem = f"{family}-v{net.family_version}-{name}"
    file = save(net, FOLDER / f"{stem}.safetensors", created="2026-01-01T00:00:00+00:00", licence="CC0-1.0")
    loaded = load(file, dtype="float64", head="*")
    cases = []
    for position, graph in enumerate(INPUTS.get(family, structures)(net, generator)):
        if net.heads:
            graph.head = torch.tensor([position % len(net.heads)])
        inputs = as_lists(graph.to_dict())
        cases.append({"inputs": inputs, "outputs": as_lists(loaded(net.spec.build(graph)))})
    (FOLDER / f"{stem}.json").write_text(json.dumps(cases) + "\n")
    if file.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{file} is larger than {MAX_BYTES} bytes")
    defaults = {
        key: value.default
        for key, value in inspect.signature(type(net)).parameters.items()
        if value.default is not inspect.Parameter.empty
    }
    return {
        "family": family,
        "family_version": net.family_version,
        "sha256": {path.suffix: checksum(path) for path in (file, FOLDER / f"{stem}.json")},
        "defaults": defaults,
        "state": {key: list(value.shape) for key, value in net.state_dict().items()},
        "outputs": manifest_of(net)["outputs"],
    }


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    index = json.loads(INDEX.read_text()) if INDEX.exists() else {}
    for family, nets in NETS.items():
        for name, make in nets.items():
            stem = f"{family}-v{make().family_version}-{name}"
            if stem not in index:
                index[stem] = write(family, name)
                print(f"wrote {stem}")
    INDEX.write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
