"""Arrays of a DPA3 model of deepmd-kit as the state of a `DPA3` net, each used exactly once; and back."""

from collections.abc import Mapping

import torch
from torch import Tensor

from geomlib.errors import DataError, FileFormatError, nearest
from geomlib.models.dpa3 import DPA3

__all__ = ["net_arrays", "net_state"]

_BLOCK_LINEARS = {
    "node_self": "node_self_mlp",
    "node_symmetric": "node_sym_linear",
    "node_edge": "node_edge_linear",
    "edge_self": "edge_self_linear",
    "edge_angle_message": "edge_angle_linear1",
    "edge_angle_update": "edge_angle_linear2",
    "angle_self": "angle_self_linear",
    "compress_node": "a_compress_n_linear",
    "compress_edge": "a_compress_e_linear",
}
_BLOCK_VECTORS = {"node_residuals": "n_residual", "edge_residuals": "e_residual", "angle_residuals": "a_residual"}
_LINEARS = {
    "type_embedding.linear": "descriptor.type_embedding.embedding.embedding_net.layers.0",
    "charge_embedding.linear": "descriptor.chg_embedding.embedding.embedding_net.layers.0",
    "spin_embedding.linear": "descriptor.spin_embedding.embedding.embedding_net.layers.0",
    "charge_spin_mix": "descriptor.mix_cs_mlp",
    "edge_embedding": "descriptor.repflows.edge_embd",
    "angle_embedding": "descriptor.repflows.angle_embd",
}
_WITHOUT_MEANING = ("out_std", "min_nbor_dist")
"""Arrays that no energy depends on: the spread of the labels and the shortest distance in the training data."""


def net_state(net: DPA3, arrays: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """State of `net` from the arrays of a deepmd-kit model.

    Args:
        net: built with the options of the model.
        arrays: by the names of a training checkpoint below `atomic_model.`
        where: what to call the file in messages.

    Raises:
        FileFormatError: an array is missing, unknown or of another shape.
        DataError: environment statistics that differ between neighbours, which break permutation invariance.
    """
    left = dict(arrays)
    expected = net.state_dict()

    def take(name: str) -> Tensor:
        if name not in left:
            raise FileFormatError(f"{where}: lacks the array '{name}'{nearest(name, left)}")
        return left.pop(name)

    state: dict[str, Tensor] = {}
    for target in expected:
        if target not in _COMPUTED:
            value = take(_source_name(target))
            is_matrix = target.endswith(".weight")
            state[target] = value.mT if is_matrix and value.ndim == 2 else value
    for name, source in (("environment_mean", "mean"), ("environment_stddev", "stddev")):
        state[name] = _same_for_all_slots(take(f"descriptor.repflows.{source}"), source, where)
    state["energy_bias"] = _energy_bias(take("out_bias"), take("fitting_net.bias_atom_e"), where)
    for name in _WITHOUT_MEANING:
        left.pop(name, None)
    for name, source in _OPTIONAL.items():
        state[name] = take(source) if expected[name].numel() or source in left else expected[name]
    if left:
        known = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise FileFormatError(f"{where}: holds the array '{min(left)}'{known}, which a DPA3 with its options lacks")
    for name, value in state.items():
        if value.shape != expected[name].shape:
            raise FileFormatError(
                f"{where}: the array for '{name}' has shape {list(value.shape)}, "
                f"its options ask for {list(expected[name].shape)}"
            )
        if not bool(torch.isfinite(value).all()):
            raise DataError(f"{where}: the array for '{name}' is not finite")
    return state


def net_arrays(net: DPA3) -> dict[str, Tensor]:
    """Arrays of a net by the names of a training checkpoint below `atomic_model.`; what `net_state` reads back.

    The statistics of the environment are repeated for every neighbour, as deepmd-kit keeps them. The energies of the
    elements all go into `out_bias`, which it adds in float64 whatever the precision of the fitting net is.
    """
    state = net.state_dict()
    arrays: dict[str, Tensor] = {}
    for target, value in state.items():
        if target not in _COMPUTED:
            is_matrix = target.endswith(".weight")
            arrays[_source_name(target)] = value.mT if is_matrix else value
    for name, source in (("environment_mean", "mean"), ("environment_stddev", "stddev")):
        repeated = state[name][:, None].expand(-1, net.config["max_neighbors"], -1)
        arrays[f"descriptor.repflows.{source}"] = repeated
    bias = state["energy_bias"].double()
    arrays["out_bias"], arrays["out_std"] = bias[None, :, None], torch.ones_like(bias)[None, :, None]
    arrays["fitting_net.bias_atom_e"] = torch.zeros_like(bias)[:, None]
    arrays.update({source: state[name] for name, source in _OPTIONAL.items() if state[name].numel()})
    return arrays


_OPTIONAL = {
    "fitting.dataset_code": "fitting_net.case_embd",
    "fitting.frame_mean": "fitting_net.fparam_avg",
    "fitting.frame_inv_std": "fitting_net.fparam_inv_std",
    "fitting.atom_mean": "fitting_net.aparam_avg",
    "fitting.atom_inv_std": "fitting_net.aparam_inv_std",
}
_COMPUTED = ("environment_mean", "environment_stddev", "energy_bias", *_OPTIONAL)


def _source_name(target: str) -> str:
    """Name in a checkpoint of what a parameter of the net is."""
    stem, _, kind = target.rpartition(".")
    words = target.split(".")
    if words[0] == "blocks" and words[2] in _BLOCK_VECTORS:
        return f"descriptor.repflows.layers.{words[1]}.{_BLOCK_VECTORS[words[2]]}.{words[3]}"
    if words[:2] == ["fitting", "timesteps"]:
        return f"fitting_net.filter_layers.networks.0.layers.{kind}.idt"
    kind = {"weight": "matrix"}.get(kind, kind)
    if words[0] == "blocks":
        return f"descriptor.repflows.layers.{words[1]}.{_BLOCK_LINEARS[words[2]]}.{kind}"
    if words[:2] == ["fitting", "layers"]:
        return f"fitting_net.filter_layers.networks.0.layers.{words[2]}.{kind}"
    return f"{_LINEARS[stem]}.{kind}"


def _same_for_all_slots(value: Tensor, name: str, where: str) -> Tensor:
    if value.ndim != 3 or value.shape[1] == 0:
        raise FileFormatError(f"{where}: '{name}' has shape {list(value.shape)}, expected [types, neighbours, 4]")
    if not bool((value == value[:, :1]).all()):
        raise DataError(
            f"{where}: '{name}' differs between the neighbours of an atom, which breaks permutation invariance; "
            "such a model can't be imported"
        )
    return value[:, 0]


def _energy_bias(out_bias: Tensor, bias_atom_e: Tensor, where: str) -> Tensor:
    if out_bias.ndim != 3 or out_bias.shape[0] != 1 or out_bias.shape[2] != 1:
        raise FileFormatError(f"{where}: out_bias has shape {list(out_bias.shape)}, expected [1, types, 1]")
    if bias_atom_e.numel() != out_bias.shape[1]:
        raise FileFormatError(f"{where}: bias_atom_e has shape {list(bias_atom_e.shape)}, expected [types, 1]")
    return bias_atom_e.double().reshape(-1) + out_bias.double()[0, :, 0]
