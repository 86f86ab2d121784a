"""`GraphData`, the one data currency, and how graphs are batched: both read the field table."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch_geometric.data import Batch, Data

from geomlib.data.fields import FIELDS, STRUCTURAL, Field, field
from geomlib.errors import DataError

__all__ = ["GraphData", "assemble", "collate"]


class GraphData(Data):
    """A graph (atoms, mesh, molecule, …) whose attributes are rows of the field table.

    PyG decides how to batch an attribute from its name; here the field table decides, and a name that it does not
    know is refused when the graph is built.

    Args:
        **fields: tensors by field name; graph-level tensors carry a leading axis of 1.

    Raises:
        UnknownField: a name that is not in the field table.
    """

    def __init__(self, **fields: Tensor | None) -> None:
        super().__init__()
        for name, value in fields.items():
            if value is not None:  # PyG's batch class passes None for every parameter it finds
                setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        # PyG has properties for x, y, edge_attr, …, which are no fields here; num_nodes has a setter that refuses
        if not name.startswith("_") and name not in STRUCTURAL and name != "num_nodes":
            field(name)
        super().__setattr__(name, value)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        return FIELDS[key].item_axis if key in FIELDS else 0

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        row = FIELDS.get(key)
        if row is None or not row.is_index:
            return self.num_nodes if key in STRUCTURAL else 0
        counts = [self.count(level) for level in row.index_levels]
        return counts[0] if len(counts) == 1 else torch.tensor(counts).unsqueeze(1)

    def count(self, level: str) -> int:
        """Number of items at `level` (nodes, edges, graphs, …) in this graph or batch.

        Raises:
            DataError: no stored field is of that level, so the count is unknown.
        """
        if level == "graph":
            return self.num_graphs
        for name, value in self._store.items():
            row = FIELDS.get(name)
            if row is not None and row.level == level:
                return int(value.size(row.item_axis))
        raise DataError(f"the number of items at level '{level}' is unknown: no field of that level is set")

    @property
    def num_nodes(self) -> int:
        """Number of nodes, from the first node-level field."""
        return self.count("node")

    @num_nodes.setter
    def num_nodes(self, value: int | None) -> None:
        raise DataError("num_nodes follows from the fields and can't be set")

    @property
    def num_edges(self) -> int:
        """Number of directed edges; 0 before a spec has built them."""
        return int(self.edge_index.size(1)) if "edge_index" in self else 0

    @property
    def num_graphs(self) -> int:
        """Number of graphs: 1 unless this is a batch."""
        return int(self.__dict__.get("_num_graphs", 1))

    @property
    def node_graph(self) -> Int[Tensor, " nodes"]:
        """Graph that each node belongs to; zeros for a single graph."""
        if "batch" in self:
            return self._store["batch"]
        first = next(value for name, value in self._store.items() if name in FIELDS)
        return torch.zeros(self.num_nodes, dtype=torch.int64, device=first.device)

    def edge_vectors(self) -> Float[Tensor, "edges 3"]:
        """Vectors from centre i to neighbour j, `pos[j] + shift·cell − pos[i]` [Å], in the precision of `pos`."""
        source, target = self.edge_index
        vectors = self.pos.index_select(0, source) - self.pos.index_select(0, target)
        if "edge_shift" not in self or "cell" not in self:
            return vectors
        shift = self.edge_shift.to(vectors.dtype)
        if self.num_graphs == 1:
            return vectors + shift @ self.cell[0]
        cell = self.cell.index_select(0, self.node_graph.index_select(0, target))
        return vectors + torch.einsum("ec,ecd->ed", shift, cell)

    def to_dtype(self, floating: torch.dtype) -> Self:
        """A copy whose open-precision fields have dtype `floating`; float64 and integer fields stay as they are."""
        out = self.clone()
        for name, value in self._store.items():
            row = FIELDS.get(name)
            if row is not None and row.dtype == "float":
                out[name] = value.to(floating)
        return out

    def validate(self, required: Sequence[str] = (), where: str = "graph", partial: Collection[str] = ()) -> Self:
        """Check presence, shapes, dtypes, index ranges and finiteness against the field table; return self.

        Args:
            required: fields that must be set.
            where: what to call this graph in messages, e.g. `"train.extxyz, frame 12"`.
            partial: fields that may be NaN where a label is missing.

        Raises:
            DataError: the first thing found wrong.
        """
        for name in required:
            if name not in self:
                raise DataError(f"{where}: field '{name}' is missing; it has {sorted(self.keys())}")
        counts: dict[str, tuple[int, str]] = {"graph": (self.num_graphs, "num_graphs")}
        for name, value in self._store.items():
            if name in FIELDS:
                self._validate_field(FIELDS[name], value, counts, where, name in partial)
        for name, value in self._store.items():
            row = FIELDS.get(name)
            if row is not None and row.is_index and value.numel():
                for rows, level in zip(value if len(row.index_levels) > 1 else [value], row.index_levels, strict=False):
                    low, high, size = int(rows.min()), int(rows.max()), counts.get(level, (None, ""))[0]
                    if low < 0 or (size is not None and high >= size):
                        raise DataError(
                            f"{where}: '{name}' holds {low}…{high}, but there are {size} items at level '{level}'"
                        )
        return self

    def _validate_field(
        self, row: Field, value: Tensor, counts: dict[str, tuple[int, str]], where: str, partial: bool
    ) -> None:
        shape = tuple(value.shape)
        items = shape[row.item_axis] if len(shape) > row.item_axis else -1
        item_shape = shape[:1] if row.item_axis else shape[1:]
        fits = len(item_shape) == len(row.shape) and all(
            want is None or got == want for got, want in zip(item_shape, row.shape, strict=True)
        )
        if items < 0 or not fits:
            expected = [*row.shape, "items"] if row.item_axis else ["items", *row.shape]
            raise DataError(
                f"{where}: '{row.name}' has shape {list(shape)}, expected {expected} with items = {row.level}s"
            )
        known, by = counts.setdefault(row.level, (items, row.name))
        if items != known:
            raise DataError(f"{where}: '{row.name}' has {items} {row.level}s but '{by}' has {known}")
        if (row.dtype.startswith("float")) != value.is_floating_point() or (row.dtype == "bool") != (
            value.dtype == torch.bool
        ):
            raise DataError(f"{where}: '{row.name}' is {value.dtype}, expected {row.dtype}")
        if value.is_floating_point():
            broken = value.isinf() if partial else ~torch.isfinite(value)
            if not bool(broken.any()):
                return
            bad = int(broken.reshape(len(value), -1).any(1).nonzero()[0])
            raise DataError(f"{where}: '{row.name}' is not finite at {row.level} {bad}")


def collate(graphs: Sequence[GraphData]) -> GraphData:
    """Batch graphs into one `GraphData` by the field table.

    Items are concatenated level by level and index fields shifted by the count of what they point to. The result is
    a PyG `Batch`: `to_data_list()` and `get_example(i)` give the graphs back.

    Args:
        graphs: at least one graph; all with the same fields.

    Raises:
        DataError: no graphs, or graphs with different fields.
    """
    if not graphs:
        raise DataError("can't batch an empty list of graphs")
    names = list(graphs[0].keys())
    for position, graph in enumerate(graphs):
        if set(graph.keys()) != set(names):
            odd = sorted(set(graph.keys()) ^ set(names))
            raise DataError(f"graph {position} of the batch differs from the first one in the fields {odd}")
    values, sizes = {}, {}
    for name in names:
        axis = field(name).item_axis
        rows = [graph._store[name] for graph in graphs]
        widths = {tuple(value.shape[:axis] + value.shape[axis + 1 :]) for value in rows}
        if len(widths) > 1:
            raise DataError(f"field '{name}' differs in width between the graphs of a batch: {sorted(widths)}")
        values[name] = torch.cat(rows, dim=axis)
        sizes[name] = torch.tensor([value.size(axis) for value in rows])
    base = type(graphs[0]) if not isinstance(graphs[0], Batch) else GraphData
    return assemble(values, sizes, base)


def assemble(
    values: Mapping[str, Tensor], sizes: Mapping[str, Int[Tensor, " graphs"]], base: type[GraphData] = GraphData
) -> GraphData:
    """Make a batch of fields whose rows are concatenated already; index fields still count from 0 in every graph.

    Args:
        values: field name → rows of all graphs.
        sizes: field name → number of rows of each graph.
        base: class of one graph.

    Raises:
        DataError: an index field points into a level of which no field is given.
    """
    graphs = len(next(iter(sizes.values())))
    level_sizes = {"graph": torch.ones(graphs, dtype=torch.int64)}
    for name, count in sizes.items():
        level_sizes.setdefault(field(name).level, count)

    def first(level: str, name: str) -> Tensor:
        if level not in level_sizes:
            raise DataError(f"'{name}' counts items at level '{level}', but no field of that level is set")
        return level_sizes[level].cumsum(0) - level_sizes[level]

    batch = Batch(_base_cls=base)
    batch.__dict__["_num_graphs"] = graphs
    slices: dict[str, Tensor] = {}
    shifts: dict[str, Tensor] = {}
    for name, value in values.items():
        row = field(name)
        slices[name] = torch.cat([sizes[name].new_zeros(1), sizes[name].cumsum(0)])
        shifts[name] = torch.zeros(graphs, dtype=torch.int64)
        if row.is_index:
            shift = torch.stack([first(level, name) for level in row.index_levels])
            shifts[name] = shift.T.unsqueeze(-1) if len(row.index_levels) > 1 else shift[0]
            moved = torch.repeat_interleave(shift, sizes[name], dim=1).to(value.device)
            value = value + (moved if row.item_axis else moved[0])
        batch[name] = value
    batch.__dict__["_slice_dict"] = slices
    batch.__dict__["_inc_dict"] = shifts
    device = next(iter(values.values())).device
    if "node" not in level_sizes:  # text alone
        return batch
    starts, nodes = first("node", "batch"), level_sizes["node"]
    batch.ptr = torch.cat([starts, (starts[-1] + nodes[-1]).view(1)]).to(device)
    batch.batch = torch.repeat_interleave(torch.arange(graphs), nodes).to(device)
    return batch
