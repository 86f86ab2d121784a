"""From a DPA3 to one for other elements, or with another input of its fitting net, that predicts the same."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from geomlib.errors import ConfigError
from geomlib.models.dpa3.net import DPA3

__all__ = ["with_code", "with_elements", "without_code", "without_dataset_biases"]

_BY_ELEMENT = ("energy_bias", "environment_mean", "environment_stddev")


@torch.no_grad()
def with_elements(net: DPA3, elements: Sequence[str]) -> DPA3:
    """A copy of a net for another list of elements; rows of tensors that are indexed by element go by symbol.

    Elements that both know keep their predictions. A new one gets a fresh type embedding, no energy bias, and the
    mean of the others' environment statistics; one that is left out is forgotten.

    Args:
        net: any DPA3.
        elements: chemical symbols in the new order.
    """
    config = {**net.config, "elements": list(elements)}
    for key in ("excluded_pairs", "excluded_elements"):
        rows = [row for row in config[key] or () if set([row] if isinstance(row, str) else row) <= set(elements)]
        config[key] = rows or None
    target = _like(net, config)
    kept = [(new, net.elements.index(symbol)) for new, symbol in enumerate(target.elements) if symbol in net.elements]
    new_rows, old_rows = torch.tensor(kept, dtype=torch.int64).reshape(-1, 2).unbind(1)
    old, state = net.state_dict(), target.state_dict()
    for name, value in old.items():
        if name not in (*_BY_ELEMENT, "type_embedding.linear.weight"):
            state[name] = value
    for name in _BY_ELEMENT:
        rows = old[name].mean(0).expand_as(state[name]).clone() if name == "environment_stddev" else state[name].clone()
        rows[new_rows] = old[name][old_rows]
        state[name] = rows
    if net.type_embedding.kind == "table":
        state["type_embedding.linear.weight"] = _embedding(net, target, new_rows, old_rows)
    else:
        state["type_embedding.linear.weight"] = old["type_embedding.linear.weight"]
    target.load_state_dict(state)
    return target


def _embedding(net: DPA3, target: DPA3, new_rows: Tensor, old_rows: Tensor) -> Tensor:
    """Weight whose table has the old rows, whatever the residual rule of the embedding adds for each width."""
    weight = target.type_embedding.linear.weight.detach().clone()
    zero = torch.zeros_like(weight)
    added = torch.func.functional_call(target.type_embedding, {"linear.weight": zero}, ()).T
    weight[:, new_rows] = net.type_embedding().T[:, old_rows] - added[:, new_rows]
    return weight


@torch.no_grad()
def without_dataset_biases(net: DPA3) -> DPA3:
    """A copy of a net in which the biases that belong to its data set are part of the plain ones."""
    state = dict(net.state_dict())
    for k in range(len(net.fitting.dataset_biases)):
        own = state.pop(f"fitting.dataset_biases.{k}")
        bias = f"fitting.layers.{k + 1}.bias"
        state[bias] = state[bias] + state["fitting.dataset_code"] @ own
    return _like(net, {**net.config, "dataset_biases": False}, state)


@torch.no_grad()
def without_code(net: DPA3) -> DPA3:
    """A copy of a net whose dataset code is part of the biases instead of an input of the fitting net.

    Raises:
        ConfigError: the first layer of the fitting net has a shortcut with one of the input widths.
    """
    if not net.config["dataset_encoding"]:
        return _like(net, net.config, net.state_dict())
    _check_shortcut(net, 0)
    net = without_dataset_biases(net)
    state = dict(net.state_dict())
    code = state.pop("fitting.dataset_code")
    first = "fitting.layers.0"
    weight = state[f"{first}.weight"]
    state[f"{first}.bias"] = state[f"{first}.bias"] + weight[:, -len(code) :] @ code
    state[f"{first}.weight"] = weight[:, : -len(code)]
    state["fitting.dataset_code"] = code[:0]
    return _like(net, {**net.config, "dataset_encoding": 0}, state)


@torch.no_grad()
def with_code(net: DPA3, width: int, *, biases: bool) -> DPA3:
    """A copy of a net with a dataset code of this width, zero and without effect, in place of the one that it has.

    Args:
        net: any DPA3.
        width: `dataset_encoding` of the copy.
        biases: `dataset_biases` of the copy.

    Raises:
        ConfigError: the first layer of the fitting net has a shortcut with one of the input widths.
    """
    _check_shortcut(net, width)
    plain = without_code(net)
    state = dict(plain.state_dict())
    weight = state["fitting.layers.0.weight"]
    state["fitting.layers.0.weight"] = torch.cat([weight, weight.new_zeros(len(weight), width)], dim=1)
    state["fitting.dataset_code"] = weight.new_zeros(width)
    for k, out in enumerate(net.config["fitting_layers"][1:] if biases else []):
        state[f"fitting.dataset_biases.{k}"] = weight.new_zeros(width, out)
    return _like(net, {**net.config, "dataset_encoding": width, "dataset_biases": biases}, state)


def _check_shortcut(net: DPA3, width: int) -> None:
    """A layer with a shortcut adds its input, so the input can't grow or shrink without another result."""
    out, before = net.fitting.layers[0].weight.shape  # type: ignore[misc]
    after = before - net.config["dataset_encoding"] + width
    if before != after and any(out in (size, 2 * size) for size in (before, after)):
        raise ConfigError(
            f"a fitting net whose first layer is {before} to {out} wide can't be carried over to an "
            f"input of {after}, with another dataset code: one of the two has a shortcut; start from a random fitting "
            "net, or choose another fitting_layers"
        )


def _like(net: DPA3, config: dict[str, Any], state: dict[str, Tensor] | None = None) -> DPA3:
    """A DPA3 with precision, device and mode of `net`."""
    made = DPA3(**config).to(net.energy_bias.device)
    made.to(net.edge_embedding.weight.dtype)
    made.fitting.to(net.fitting.layers[-1].weight.dtype)  # type: ignore[arg-type]
    if state is not None:
        made.load_state_dict(state)
    return made.train(net.training)
