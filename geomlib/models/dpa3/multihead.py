"""DPA3 with several heads: one descriptor for several data sets, each with energies of its own."""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError, DataError, nearest
from geomlib.models.dpa3.fitting import EnergyFitting
from geomlib.models.dpa3.net import DPA3
from geomlib.models.dpa3.statistics import element_energies, environment_stddev
from geomlib.models.dpa3.transfer import without_code
from geomlib.nn.tracing import tracing

__all__ = ["MultiHeadDPA3"]

_NAME = re.compile(r"[A-Za-z0-9][\w+-]*")
_OPTIONS = inspect.signature(DPA3).parameters
_OF_A_HEAD = ("fitting_layers", "dataset_encoding", "dataset_biases")
_STRUCTURE = ("pos", "atomic_number", "cell", "pbc")


class MultiHeadDPA3(DPA3):
    """DPA3 for several data sets (heads) that share its descriptor.

    Each head has its own energies of the elements. With `separate` fitting nets each has its own one too; with a
    `shared` fitting net the input carries the one-hot code of the head's position among the sorted names, so that a
    head costs no more than one column of the first layer, or, with `dataset_biases`, the biases of the hidden layers.
    Statistics of the environment are those of all heads together, those of frame and atom parameters belong to the
    fitting net.

    Every graph says by the field `head` which head it asks for, as a position in `heads`; the graphs of a batch may
    ask for different ones. `single(name)` is the plain DPA3 of one head.

    Args:
        heads: their names; sorted.
        fitting: `separate` or `shared`.
        head_fitting_layers: head → hidden widths of its fitting net, where they differ from `fitting_layers`
            (`separate` only).
        **options: the arguments of `DPA3`. `dataset_encoding` is the number of heads with `shared` fitting, unless a
            larger one is given, and 0 otherwise.
    Inputs (batch fields): those of `DPA3`, head [graphs]
    Returns: energy [graphs, eV], atom_energy [nodes, eV], both float64
    Raises:
        ConfigError: an argument out of its range, or heads that are no distinct names.
    Source: deepmd-kit 3.2, `deepmd/pt/utils/multi_task.py` and `doc/train/multi-task-training.md`.
    """

    family = "dpa3-multihead"
    family_version = 1
    inputs: tuple[str, ...] = (*DPA3.inputs, "head")

    def __init__(
        self,
        heads: list[str],
        *,
        fitting: str = "separate",
        head_fitting_layers: dict[str, list[int]] | None = None,
        **options: Any,
    ) -> None:
        if fitting not in ("separate", "shared"):
            hint = nearest(fitting, ("separate", "shared"))
            raise ConfigError(f"MultiHeadDPA3 fitting='{fitting}' is unknown{hint}; choose from separate, shared")
        names = _checked_heads(heads)
        widths = {name: list(layers) for name, layers in (head_fitting_layers or {}).items()}
        for name in widths:
            if fitting == "shared" or name not in names:
                reason = "the fitting net is shared" if fitting == "shared" else f"the heads are {', '.join(names)}"
                raise ConfigError(f"MultiHeadDPA3 head_fitting_layers names '{name}', but {reason}")
        asked = int(options.get("dataset_encoding") or 0)
        if asked and not (fitting == "shared" and asked >= len(names)):
            raise ConfigError(
                f"MultiHeadDPA3 dataset_encoding={asked}: with '{fitting}' fitting expected "
                + (f"at least {len(names)}, the number of heads" if fitting == "shared" else "0")
            )
        if options.get("dataset_biases") and fitting == "separate":
            raise ConfigError("MultiHeadDPA3 dataset_biases=True: heads with 'separate' fitting have their own biases")
        options["dataset_encoding"] = (asked or len(names)) if fitting == "shared" else 0
        for key in options:
            if key not in _OPTIONS:
                raise TypeError(f"MultiHeadDPA3 has no argument '{key}'{nearest(key, _OPTIONS)}")
        super().__init__(**options)
        self.heads = names
        self.config |= {"heads": names, "fitting": fitting, "head_fitting_layers": widths or None}
        self.energy_bias = self.energy_bias.repeat(len(names), 1)
        if fitting == "shared":
            codes = torch.eye(len(names), options["dataset_encoding"])
            self.fitting.dataset_code = codes.to(self.fitting.dataset_code)
        else:
            nets = [DPA3(**{**self._single_config(name), "layers": 1}) for name in names]  # for their fitting nets
            self.fitting = nn.ModuleList([net.fitting for net in nets])  # type: ignore[assignment]

    def _single_config(self, head: str) -> dict[str, Any]:
        own = ("heads", "fitting", "head_fitting_layers")
        config = {name: value for name, value in self.config.items() if name not in own}
        widths = self.config["head_fitting_layers"] or {}
        return {**config, "fitting_layers": widths.get(head, config["fitting_layers"])}

    @property
    def is_shared(self) -> bool:
        """Whether the heads share their fitting net."""
        return bool(self.config["fitting"] == "shared")

    def position(self, head: str) -> int:
        """Position of a head among the sorted names.

        Raises:
            ConfigError: there is no such head.
        """
        if head not in self.heads:
            raise ConfigError(f"there is no head '{head}'{nearest(head, self.heads)}; heads: {', '.join(self.heads)}")
        return self.heads.index(head)

    def single(self, head: str) -> DPA3:
        """The plain DPA3 of one head; it uses the same tensors, so training the one trains the other.

        Raises:
            ConfigError: there is no such head.
        """
        position = self.position(head)
        with torch.device("meta"):
            net = DPA3(**self._single_config(head))
        for name, module in self.named_children():
            if name != "fitting":
                net._modules[name] = module
        net._buffers.update(self._buffers)
        net.energy_bias = self.energy_bias[position]
        fitting = self.fitting if self.is_shared else self.fitting[position]  # type: ignore[index]
        net.fitting._modules.update(fitting._modules)
        net.fitting._buffers.update(fitting._buffers)
        if self.is_shared:
            net.fitting.dataset_code = self.fitting.dataset_code[position]
        return net.train(self.training)

    @classmethod
    def join(cls, nets: Mapping[str, DPA3]) -> Self:
        """One net of several that share a descriptor; their tensors are copied.

        The fitting net is shared if they share that too and tell each other apart by their dataset codes.

        Args:
            nets: head → its net.

        Raises:
            ConfigError: the nets differ in more than fitting net and element energies.
        """
        names = sorted(nets)
        first = nets[names[0]]
        states = {name: nets[name].state_dict() for name in names}

        def same(key: str, name: str) -> bool:
            values = states[names[0]].get(key), states[name].get(key)
            return values[0] is not None and values[1] is not None and torch.equal(values[0], values[1])

        for name in names[1:]:
            config, reference = nets[name].config, first.config
            odd = [key for key in reference if key not in _OF_A_HEAD and config.get(key) != reference[key]]
            own = ("fitting.", "energy_bias")
            odd += [key for key in states[name] if not key.startswith(own) and not same(key, name)]
            if odd:
                raise ConfigError(f"heads {names[0]} and {name} don't share a descriptor: they differ in '{odd[0]}'")
        width = first.config["dataset_encoding"]
        of_fitting = {key for state in states.values() for key in state if key.startswith("fitting.")}
        shared = width >= len(names) and all(
            same(key, name) for key in of_fitting - {"fitting.dataset_code"} for name in names
        )
        config = {**first.config, "dataset_encoding": width if shared else 0}
        config["dataset_biases"] = shared and config["dataset_biases"]
        layers = {} if shared else {name: nets[name].config["fitting_layers"] for name in names}
        net = cls(names, fitting="shared" if shared else "separate", head_fitting_layers=layers, **config)
        net.to(first.energy_bias.device)
        for name in names:
            net.single(name).load_state_dict((nets[name] if shared else without_code(nets[name])).state_dict())
        return net.train(first.training)

    def traced_inputs(self, batch: GraphData) -> dict[str, Tensor]:
        """As `DPA3.traced_inputs`, with the heads."""
        self._node_heads(batch)
        return {**super().traced_inputs(batch), "head": batch.head}

    def _fit(
        self, batch: GraphData, node: Tensor, frame: Tensor | None, atom: Tensor | None
    ) -> Float[Tensor, " nodes"]:
        head = self._node_heads(batch)
        if self.is_shared:
            return self.fitting(node, frame, atom, self.fitting.dataset_code.index_select(0, head))
        if tracing():  # every head for every atom, for who is present is a matter of values
            energies = [fitting(node, frame, atom).double() for fitting in self._fittings]
            return torch.stack(energies).gather(0, head.unsqueeze(0)).squeeze(0)
        present = batch.head.unique().tolist()
        if len(present) == 1:
            return self._fittings[present[0]](node, frame, atom)
        energy = node.new_zeros(len(node), dtype=torch.float64)
        for position in present:
            rows = (head == position).nonzero().squeeze(1)
            some = [None if value is None else value.index_select(0, rows) for value in (node, frame, atom)]
            energy = energy.index_add(0, rows, self._fittings[position](*some).double())
        return energy

    @property
    def _fittings(self) -> Sequence[EnergyFitting]:
        return [self.fitting] if self.is_shared else list(self.fitting)  # type: ignore[call-overload]

    def _element_energy(self, batch: GraphData, types: Tensor) -> Float[Tensor, " nodes"]:
        return self.energy_bias[self._node_heads(batch), types]

    def _node_heads(self, batch: GraphData) -> Int[Tensor, " nodes"]:
        if "head" not in batch:
            raise DataError(
                f"the net has the heads {', '.join(self.heads)}, but the graph has no field 'head' that says which "
                "one it asks for: set it, or take net.single(name)"
            )
        if not tracing() and bool(((batch.head < 0) | (batch.head >= len(self.heads))).any()):
            raise DataError(f"'head' is {batch.head.tolist()}; the net has {len(self.heads)}: {', '.join(self.heads)}")
        return batch.head.index_select(0, batch.node_graph)

    @torch.no_grad()
    def fit_statistics(self, graphs: Iterable[GraphData]) -> None:
        """Fill the energy bias of each head and the other buffers that hold data statistics.

        Args:
            graphs: training graphs of all heads, each with its `head`; a head without any keeps what it has.

        Raises:
            DataError: a graph without `head`.
        """
        groups: list[list[GraphData]] = [[] for _ in self.heads]
        for graph in graphs:
            groups[int(self._node_heads(graph)[0])].append(graph)
        everything = [graph for group in groups for graph in group]
        for position, group in enumerate(groups):
            if group:
                self.energy_bias[position] = element_energies(group, self)
                if not self.is_shared:
                    self._fit_parameter_statistics(self._fittings[position], group)
        if self.is_shared:
            self._fit_parameter_statistics(self.fitting, everything)
        if not self.config["environment_scale"]:
            spread = environment_stddev([_structure(graph) for graph in everything], self, self._geometry_options)
            self.environment_stddev.copy_(spread)


_OWN = inspect.signature(MultiHeadDPA3.__init__).parameters
MultiHeadDPA3.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # the options by their names
    [
        _OWN["heads"],
        *(row.replace(kind=row.KEYWORD_ONLY) for row in _OPTIONS.values()),
        _OWN["fitting"],
        _OWN["head_fitting_layers"],
    ]
)


def _checked_heads(heads: Sequence[str]) -> list[str]:
    names = sorted(heads)
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"'{name}' is no name of a head: letters, digits, '_', '-' and '+' make one")
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"MultiHeadDPA3 heads={list(heads)}: expected at least one name, each once")
    return names


def _structure(graph: GraphData) -> GraphData:
    """Structure alone, with the same fields whatever the data set: a missing cell is an empty one."""
    fields = {name: graph[name] for name in _STRUCTURE if name in graph}
    fields.setdefault("cell", graph.pos.new_zeros(1, 3, 3))
    fields.setdefault("pbc", torch.zeros(1, 3, dtype=torch.bool))
    return GraphData(**fields)
