"""The field table: every quantity that geomlib moves around, with its level, shape, unit and symmetry.

Batching, validation, augmentation, loss terms, metrics, adapters and the docs read this table; nothing about a
field is written anywhere else. A family that needs a new quantity adds a row here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from geomlib.errors import UnknownField, nearest

__all__ = ["FIELDS", "LEVELS", "Field", "field"]

LEVELS = (
    "graph",
    "component",
    "node",
    "edge",
    "line",
    "character",
    "token",
    "mode",
    "pair",
    "entry",
    "hyperedge",
    "member",
    "clique",
    "clique_member",
    "candidate",
    "candidate_member",
    "frame",
)
"""What the rows of a field's tensor stand for; `line` is an edge of the line graph (a pair of edges), `component` a
molecule of a graph that is a mixture (a single molecule is a mixture of one), `member` a node of a hyperedge,
`candidate` a clique that may be a hyperedge, `clique_member` and `candidate_member` a node of one."""


@dataclass(frozen=True, slots=True)
class Field:
    """One row of the field table.

    Args:
        name: attribute of `GraphData` and key of a net's output.
        level: what one row of the tensor belongs to, one of `LEVELS`.
        shape: shape of one item; the stored tensor is `[items, *shape]`, so graph-level tensors keep a leading 1.
            Index fields of several rows are stored transposed, `[2, items]`. `None` is a width that the data decide.
        dtype: `"float"` (any floating precision), `"float64"`, `"int64"` or `"bool"`.
        unit: internal unit; `""` if it has none; `"card"` if the dataset card says.
        kind: transformation under rotation and shift rule: `scalar`, `pseudoscalar`, `vector`, `axial`,
            `symmetric2`, `matrix33`, `irreps`, `category`, `mask`, or `index:<level>[/<level>]`.
        doc: one sentence.
    """

    name: str
    level: str
    shape: tuple[int | None, ...]
    dtype: str
    unit: str
    kind: str
    doc: str

    @property
    def is_index(self) -> bool:
        """Whether the rows hold positions of other items (and are shifted when graphs are batched)."""
        return self.kind.startswith("index:")

    @property
    def index_levels(self) -> tuple[str, ...]:
        """Level that each row of an index field points into."""
        return tuple(self.kind.removeprefix("index:").split("/"))

    @property
    def item_axis(self) -> int:
        """Axis along which graphs are concatenated."""
        return 1 if self.is_index and self.shape else 0

    def torch_dtype(self, floating: torch.dtype = torch.float64) -> torch.dtype:
        """Dtype to store the field with, `floating` where the table leaves the precision open."""
        return {"float": floating, "float64": torch.float64, "int64": torch.int64, "bool": torch.bool}[self.dtype]


_ROWS = (
    # structure of atoms
    Field("pos", "node", (3,), "float", "Å", "vector", "Positions (for a mesh the card gives the unit)."),
    Field("atomic_number", "node", (), "int64", "", "category", "Atomic number, 1 to 118."),
    Field(
        "cell",
        "graph",
        (3, 3),
        "float",
        "Å",
        "matrix33",
        "Lattice vectors as rows; zero rows if not periodic.",
    ),
    Field("pbc", "graph", (3,), "bool", "", "mask", "Periodicity along each lattice vector."),
    Field("charge", "graph", (), "int64", "e", "scalar", "Total charge."),
    Field("spin_multiplicity", "graph", (), "int64", "", "scalar", "Spin multiplicity 2S+1."),
    Field(
        "frame_parameters",
        "graph",
        (None,),
        "float",
        "card",
        "scalar",
        "Parameters of a frame, e.g. a field.",
    ),
    Field("atom_parameters", "node", (None,), "float", "card", "scalar", "Parameters of each atom."),
    Field("sample_id", "graph", (), "int64", "", "category", "Position of the graph in its store."),
    Field("head", "graph", (), "int64", "", "category", "Position among the sorted heads of a net that has several."),
    # structure of graphs
    Field(
        "edge_index",
        "edge",
        (2,),
        "int64",
        "",
        "index:node",
        "Row 0 neighbour j, row 1 centre i; sorted by i.",
    ),
    Field("edge_shift", "edge", (3,), "float", "", "scalar", "Integer cell shift of the neighbour's image."),
    Field(
        "line_index",
        "line",
        (2,),
        "int64",
        "",
        "index:edge",
        "Pairs of edges with the same centre: row 0 edge ik, row 1 edge ij; sorted by row 1; k=j included.",
    ),
    # labels and predictions of potentials
    Field("energy", "graph", (), "float64", "eV", "scalar", "Total energy."),
    Field("atom_energy", "node", (), "float64", "eV", "scalar", "Energy of each atom; sums to `energy`."),
    Field("forces", "node", (3,), "float", "eV/Å", "vector", "Forces, −∂E/∂pos."),
    Field("virial", "graph", (3, 3), "float", "eV", "symmetric2", "Virial, −∂E/∂strain = −stress·volume."),
    Field(
        "stress",
        "graph",
        (3, 3),
        "float",
        "eV/Å^3",
        "symmetric2",
        "Stress, ∂E/∂strain / volume (ASE's sign).",
    ),
    Field("hessian", "node", (None, 3, 3), "float", "eV/Å^2", "matrix33", "Second derivatives, `[N, N, 3, 3]`."),
    Field("dipole", "graph", (3,), "float", "e*Å", "vector", "Electric dipole moment."),
    # molecules and mixtures, as text, tokens and graphs
    Field("component_graph", "component", (), "int64", "", "index:graph", "Graph (mixture) of each molecule."),
    Field("mole_fraction", "component", (), "float", "", "scalar", "Mole fraction; sums to 1 over a graph."),
    Field("temperature", "graph", (), "float", "K", "scalar", "Temperature."),
    Field("smiles", "character", (), "int64", "", "category", "Code points of the SMILES, molecule after molecule."),
    Field("character_component", "character", (), "int64", "", "index:component", "Molecule of each character."),
    Field("token_id", "token", (), "int64", "", "category", "Ids in the vocabulary, molecule after molecule."),
    Field("token_component", "token", (), "int64", "", "index:component", "Molecule of each token; ascending."),
    Field("token_label", "token", (), "int64", "", "category", "Id that a masked token had; -100 elsewhere."),
    Field("token_state", "token", (None,), "float", "", "scalar", "Hidden state of each token."),
    Field("token_logit", "token", (None,), "float", "", "scalar", "Logits over the vocabulary at each token."),
    Field("node_type", "node", (), "int64", "", "category", "Type of each node, from a list that the builder names."),
    Field("edge_type", "edge", (), "int64", "", "category", "Type of each edge, from a list that the builder names."),
    Field("node_features", "node", (None,), "float", "", "scalar", "Features of each node."),
    Field("edge_features", "edge", (None,), "float", "", "scalar", "Features of each edge."),
    Field("node_component", "node", (), "int64", "", "index:component", "Molecule of each node; ascending."),
    Field("descriptors", "component", (None,), "float", "card", "scalar", "Descriptors of each molecule."),
    # spectra of graph Laplacians
    Field("eigenvalues", "graph", (None,), "float", "", "scalar", "Lowest eigenvalues, padded with zeros."),
    Field("eigenvectors", "node", (None,), "float", "", "scalar", "Their eigenvectors as columns, padded with zeros."),
    Field("eigenvector_count", "graph", (), "int64", "", "scalar", "Number of eigenpairs that are not padding."),
    # hypergraphs
    Field("node_id", "node", (), "int64", "", "category", "What the node is called in its file."),
    Field(
        "edge_weight",
        "edge",
        (),
        "float",
        "",
        "scalar",
        "Weight, at least 0; number of hyperedges that hold both ends.",
    ),
    Field("hyperedge_index", "member", (2,), "int64", "", "index:node/hyperedge", "Node and hyperedge of each member."),
    Field("multiplicity", "hyperedge", (), "int64", "", "scalar", "How often the hyperedge occurs, at least once."),
    Field("clique_index", "clique_member", (2,), "int64", "", "index:node/clique", "Node and clique of each member."),
    Field("clique_size", "clique", (), "int64", "", "scalar", "Number of nodes of each maximal clique."),
    Field(
        "candidate_index",
        "candidate_member",
        (2,),
        "int64",
        "",
        "index:node/candidate",
        "Node and candidate of each member of a candidate.",
    ),
    Field("candidate_maximal", "candidate", (), "bool", "", "mask", "Whether the candidate is a maximal clique."),
    Field("candidate_features", "candidate", (None,), "float64", "", "scalar", "Standardised in their own graph."),
    Field("candidate_logit", "candidate", (), "float", "", "scalar", "Log-odds that the candidate is a hyperedge."),
    Field("candidate_probability", "candidate", (), "float", "", "scalar", "Probability of being a hyperedge."),
    # matrices over atomic orbitals
    Field(
        "pair_index", "pair", (2,), "int64", "", "index:node", "Atoms i > j of each pair, rows i and j; sorted by i."
    ),
    Field("entry_atom", "entry", (2,), "int64", "", "index:node", "Atoms of the row and the column of each entry."),
    Field("entry_slot", "entry", (2,), "int64", "", "category", "Places of its orbitals in the blocks of those atoms."),
    Field("hamiltonian", "entry", (), "float64", "Hartree", "scalar", "Kohn-Sham matrix, row after row."),
    Field(
        "initial_hamiltonian", "entry", (), "float64", "Hartree", "scalar", "That of the density the SCF starts from."
    ),
    Field("overlap", "entry", (), "float64", "", "scalar", "Overlap of the orbitals, row after row."),
    # general learning
    Field("target", "graph", (None,), "float", "card", "scalar", "Properties named on the card or by the net."),
    Field(
        "target_raw", "graph", (None,), "float", "", "scalar", "Targets as the loss sees them: normalised, or logits."
    ),
    Field("target_excess", "graph", (None,), "float", "card", "scalar", "Target minus Σ x_i target of pure i."),
    Field("node_target", "node", (None,), "float", "card", "scalar", "Properties of each node."),
)

FIELDS: Mapping[str, Field] = MappingProxyType({row.name: row for row in _ROWS})
"""Name → row of the field table."""

STRUCTURAL = frozenset({"batch", "ptr"})
"""Names that batching itself adds; they are not fields."""


def field(name: str) -> Field:
    """Row of the field table called `name`.

    Raises:
        UnknownField: there is none; the message names the closest one.
    """
    try:
        return FIELDS[name]
    except KeyError:
        raise UnknownField(f"'{name}' is not in the field table{nearest(name, FIELDS)}") from None
