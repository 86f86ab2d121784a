"""An energy net and its derivatives as one graph of tensor operations, for any numbers of atoms, edges and graphs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.fx.graph import CodeGen

from geomlib.data.fields import FIELDS
from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError
from geomlib.nn.tracing import TracedBatch

__all__ = ["Trace", "item_axis", "trace", "traceable", "traced_inputs"]

_WRITES = ("index_copy", "index_add", "index_put", "index_fill", "scatter", "scatter_add")


@dataclass(frozen=True)
class Trace:
    """A traced net.

    Attributes:
        graph: takes the tensors `inputs` and returns the tensors `outputs`; parameters and buffers of the net are
            attributes of it, the same objects as in the net.
        inputs: names, in the order of the arguments.
        outputs: names of what is returned.
    """

    graph: GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def traced_inputs(net: Any, batch: GraphData) -> dict[str, Tensor]:
    """The tensors of a batch that the trace of a net takes.

    A single graph gets an empty second one, and one in the open a cell of zeros, so that the same code serves all.

    Args:
        net: an energy net.
        batch: with its structure.

    Raises:
        DataError: the batch is not what the net wants.
    """
    inputs = {"pos": batch.pos, "node_graph": batch.node_graph, **net.traced_inputs(batch)}
    graphs = batch.num_graphs
    inputs["cell"] = batch.cell if "cell" in batch else batch.pos.new_zeros(graphs, 3, 3)
    if graphs == 1:
        of_graphs = [name for name in inputs if name in FIELDS and FIELDS[name].level == "graph"]
        inputs |= {name: torch.cat([inputs[name], inputs[name]]) for name in of_graphs}
    inputs["strain"] = batch.pos.new_zeros(max(graphs, 2), 3, 3)
    return {name: inputs[name].detach() for name in sorted(inputs)}


def item_axis(name: str) -> int:
    """Axis along which an input of a trace has one item per atom, edge, …; its size is free."""
    return FIELDS[name].item_axis if name in FIELDS else 0


def traceable(inputs: Mapping[str, Tensor]) -> bool:
    """Whether all sizes are two at least; compilers treat 0 and 1 in a way of their own."""
    return all(value.shape[item_axis(name)] >= 2 for name, value in inputs.items())


def trace(net: Any, inputs: Mapping[str, Tensor]) -> Trace:
    """Trace energies, forces and virial of a net, ∂E/∂r and ∂E/∂ε written out as operations of the same graph.

    Source of the way: make_fx with symbolic sizes over `torch.func.grad_and_value`, as nequip and deepmd-kit do.

    Args:
        net: an energy net whose `forward` can be traced (see `geomlib.nn.tracing`).
        inputs: from `traced_inputs`, `traceable`.

    Raises:
        ConfigError: the net looks at the values of tensors, or fixes a size.
    """
    weights = dict([*net.named_parameters(), *net.named_buffers()])
    mode = FakeTensorMode(shape_env=ShapeEnv(duck_shape=False))
    fake_weights = [mode.from_tensor(value.detach(), static_shapes=True) for value in weights.values()]
    fake_inputs = [_symbolic(mode, name, value) for name, value in inputs.items()]
    outputs: list[str] = []

    def predict(weight_values: list[Tensor], *values: Tensor) -> tuple[Tensor, ...]:
        fields = dict(zip(inputs, values, strict=True))
        pos, strain = fields.pop("pos"), fields.pop("strain")

        def energy(pos: Tensor, strain: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            batch = TracedBatch(_strained(pos, strain, fields), strain.shape[0])
            out = torch.func.functional_call(net, dict(zip(weights, weight_values, strict=True)), (batch,))
            return out["energy"].sum(), out

        derivative = torch.func.grad_and_value(energy, argnums=(0, 1), has_aux=True)
        (by_pos, by_strain), (_, out) = derivative(pos, strain)
        out = {**out, "forces": -by_pos, "virial": -by_strain}
        outputs[:] = out
        return tuple(out.values())

    try:
        graph = make_fx(predict, tracing_mode="symbolic")(fake_weights, *fake_inputs)
    except torch.fx.experimental.symbolic_shapes.GuardOnDataDependentSymNode as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{type(net).__name__} can't be compiled: its forward looks at values: {reason}") from error
    for name, value in zip(inputs, fake_inputs, strict=True):
        if _is_fixed(value.shape[item_axis(name)]):
            raise ConfigError(
                f"{type(net).__name__} can't be compiled: its forward fixes the number of items of '{name}'; "
                "sizes have to be read as x.shape[0], not len(x)"
            )
    _attach_weights(graph, weights)
    _give_own_storage(graph.graph)
    graph.graph.set_codegen(CodeGen())
    graph.graph.lint()
    graph.recompile()
    return Trace(graph, tuple(inputs), tuple(outputs))


def _strained(pos: Tensor, strain: Tensor, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fields of the batch after r → r(1+ε), as in `Derivatives`."""
    symmetric = 0.5 * (strain + strain.mT)
    of_node = symmetric.index_select(0, fields["node_graph"])
    cell = fields["cell"]
    return {
        **fields,
        "pos": pos + (pos.unsqueeze(2) * of_node).sum(1),
        "cell": cell + torch.bmm(cell, symmetric.to(cell.dtype)),
    }


def _symbolic(mode: FakeTensorMode, name: str, value: Tensor) -> FakeTensor:
    sizes = [DimDynamic.STATIC] * value.ndim
    sizes[item_axis(name)] = DimDynamic.DYNAMIC
    context: StatelessSymbolicContext = StatelessSymbolicContext(dynamic_sizes=sizes)
    return mode.from_tensor(value, symbolic_context=context, source=ConstantSource(name))


def _is_fixed(size: int | torch.SymInt) -> bool:
    return not isinstance(size, torch.SymInt) or bool(size.node.expr.is_number)


def _attach_weights(graph: GraphModule, weights: Mapping[str, Tensor]) -> None:
    """Make attributes of the first arguments."""
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    for node, (name, value) in zip(placeholders, weights.items(), strict=False):
        attribute = "weight_" + re.sub(r"\W", "_", name)
        if isinstance(value, nn.Parameter):
            graph.register_parameter(attribute, value)
        else:
            graph.register_buffer(attribute, value)
        with graph.graph.inserting_before(node):
            node.replace_all_uses_with(graph.graph.get_attr(attribute))
        graph.graph.erase_node(node)


def _give_own_storage(graph: Graph) -> None:
    """Copy expanded tensors before rows of them are replaced: Inductor 2.13 writes all rows into one (seen on CPU)."""
    for node in list(graph.nodes):
        if node.op != "call_function" or getattr(node.target, "_opname", "").rstrip("_") not in _WRITES:
            continue
        base = node.args[0]
        if isinstance(base, Node) and getattr(base.target, "_opname", "") == "expand":
            with graph.inserting_before(node):
                form: dict[str, Any] = {"memory_format": torch.contiguous_format}
                node.replace_input_with(base, graph.call_function(torch.ops.aten.clone.default, (base,), form))
