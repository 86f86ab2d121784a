"""Which constructor arguments of DPA3 make a net."""

from typing import Any

from geomlib.data.elements import atomic_numbers
from geomlib.errors import ConfigError, nearest

__all__ = ["check_config", "plain"]

_LARGEST = {
    **dict.fromkeys(("layers", "edge_messages"), 1_000),
    **dict.fromkeys(("node_dim", "edge_dim", "angle_dim", "symmetrization_axes"), 100_000),
    **dict.fromkeys(("frame_parameters", "atom_parameters", "dataset_encoding"), 100_000),
}
"""Beyond these a config is a mistake, or an attempt to have memory allocated before weights are compared."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "selection": ("dynamic", "fixed"),
    "update_order": ("parallel", "sequential"),
    "update_style": ("residual", "average", "increment"),
    "residual_init": ("constant", "normal"),
    "edge_init": ("distance", "inverse_distance"),
    "switch": ("exponential", "quintic"),
    "type_embedding": ("table", "electron_configuration"),
    "precision": ("float32", "float64"),
    "fitting_precision": ("float32", "float64"),
    "initialization": ("geomlib", "published"),
    "recompute": ("none", "angles", "layers"),
}


def plain(value: Any) -> Any:
    """A copy in JSON-able types."""
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def check_config(config: dict[str, Any]) -> None:
    """Refuse arguments that make no net.

    Raises:
        ConfigError: the first thing found wrong.
        UnknownElement: a symbol that no element has.
    """
    for name, choices in _CHOICES.items():
        if config[name] is not None and config[name] not in choices:
            hint = nearest(str(config[name]), choices)
            raise ConfigError(f"DPA3 {name}='{config[name]}' is unknown{hint}; choose from {', '.join(choices)}")
    elements = config["elements"]
    if not elements or len(set(elements)) != len(elements):
        raise ConfigError(f"DPA3 elements={elements}: expected at least one symbol, each once")
    atomic_numbers(elements)
    for name in ("cutoff", "max_neighbors", "layers", "node_dim", "edge_dim", "angle_dim", "symmetrization_axes"):
        if not config[name] > 0:
            raise ConfigError(f"DPA3 {name}={config[name]}: expected a positive number")
    sizes = {name: config[name] for name in _LARGEST}
    sizes["fitting_layers"] = max([len(config["fitting_layers"]), *config["fitting_layers"]], default=0)
    for name, size in sizes.items():
        if size > _LARGEST.get(name, _LARGEST["node_dim"]):
            raise ConfigError(f"DPA3 {name}={size} is larger than any sensible net; is the file or recipe damaged?")
    if config["angle_cutoff"] > config["cutoff"] or config["max_angle_neighbors"] > config["max_neighbors"]:
        raise ConfigError(
            f"DPA3 angles (cutoff {config['angle_cutoff']} Å, {config['max_angle_neighbors']} neighbors) reach beyond "
            f"bonds (cutoff {config['cutoff']} Å, {config['max_neighbors']} neighbors)"
        )
    for smooth, cutoff in (("cutoff_smooth", "cutoff"), ("angle_cutoff_smooth", "angle_cutoff")):
        if not 0 < config[smooth] < config[cutoff]:
            raise ConfigError(f"DPA3 {smooth}={config[smooth]} Å: expected between 0 and {cutoff}={config[cutoff]} Å")
    if config["selection"] == "dynamic" and not config["smooth_edge_update"]:
        raise ConfigError("DPA3 selection='dynamic' requires smooth_edge_update=True")
    if config["dataset_biases"] and not config["dataset_encoding"]:
        raise ConfigError("DPA3 dataset_biases=True requires a dataset_encoding, whose biases they are")
    if config["update_order"] == "sequential" and not (
        config["update_angles"] and config["update_style"] == "residual"
    ):
        raise ConfigError("DPA3 update_order='sequential' requires update_angles=True and update_style='residual'")
    if config["symmetrization_axes"] > min(config["node_dim"], config["edge_dim"]):
        raise ConfigError("DPA3 symmetrization_axes is larger than the number of channels")
    c, ce, a = config["angle_compression"], config["angle_edge_compression"], config["angle_dim"]
    if c < 0 or (c and (a % c or (ce * a) % (2 * c) or ce < 1)):
        raise ConfigError(
            f"DPA3 angle_dim={a} can't be divided by angle_compression={c} and angle_edge_compression={ce}"
        )
    if c and config["split_compression"] and (a // c > config["node_dim"] or ce * a // (2 * c) > config["edge_dim"]):
        raise ConfigError("DPA3 split_compression takes more channels than atoms or bonds have")
