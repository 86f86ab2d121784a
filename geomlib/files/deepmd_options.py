"""Options of a DPA3 model of deepmd-kit in the words of `DPA3`."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from geomlib.errors import FileFormatError, GeomlibWarning

__all__ = ["net_options"]

_Convert = Callable[[Any], Any]


def _single(value: Any) -> int:
    return int(value[0] if isinstance(value, list) and len(value) == 1 else value)


def _charge_spin(value: Any) -> list[int] | None:
    return None if value is None else [int(item) for item in value]


_STYLES = {"res_residual": "residual", "res_avg": "average", "res_incr": "increment"}
_INITS = {"const": "constant", "norm": "normal"}

_REPFLOW: dict[str, tuple[str, Any, _Convert]] = {
    "n_dim": ("node_dim", 128, int),
    "e_dim": ("edge_dim", 64, int),
    "a_dim": ("angle_dim", 64, int),
    "nlayers": ("layers", 6, int),
    "e_rcut": ("cutoff", None, float),
    "e_rcut_smth": ("cutoff_smooth", None, float),
    "e_sel": ("max_neighbors", None, _single),
    "a_rcut": ("angle_cutoff", None, float),
    "a_rcut_smth": ("angle_cutoff_smooth", None, float),
    "a_sel": ("max_angle_neighbors", None, _single),
    "axis_neuron": ("symmetrization_axes", 4, int),
    "n_multi_edge_message": ("edge_messages", 1, int),
    "a_compress_rate": ("angle_compression", 0, int),
    "a_compress_e_rate": ("angle_edge_compression", 1, int),
    "a_compress_use_split": ("split_compression", False, bool),
    "update_angle": ("update_angles", True, bool),
    "update_style": ("update_style", "res_residual", _STYLES.__getitem__),
    "update_residual": ("residual_scale", 0.1, float),
    "update_residual_init": ("residual_init", "const", _INITS.__getitem__),
    "fix_stat_std": ("environment_scale", 0.3, float),
    "smooth_edge_update": ("smooth_edge_update", False, bool),
    "edge_init_use_dist": ("edge_init", False, lambda on: "distance" if on else "inverse_distance"),
    "use_exp_switch": ("switch", False, lambda on: "exponential" if on else "quintic"),
    "use_dynamic_sel": ("selection", False, lambda on: "dynamic" if on else "fixed"),
    "sel_reduce_factor": ("selection_reduction", 10.0, float),
    "sequential_update": ("update_order", False, lambda on: "sequential" if on else "parallel"),
}
"""Option → (argument of `DPA3`, default of deepmd-kit, conversion); a default of None means it must be there."""

_OLD_SPELLINGS = {"edge_use_dist": "edge_init_use_dist", "use_env_envelope": "use_exp_switch"}
_WITHOUT_MEANING = {
    "repflow": {"optim_update", "skip_stat"},
    "descriptor": {
        *("@class", "@version", "type", "ntypes", "repflow", "repflow_variable", "type_map", "trainable", "seed"),
        *("use_loc_mapping", "type_embedding", "chg_embedding", "spin_embedding", "mix_cs_mlp"),
    },
    "fitting_net": {
        *("@class", "@version", "@variables", "type", "ntypes", "dim_descrpt", "nets", "type_map", "trainable", "seed"),
        *("rcond", "atom_ener", "layer_name", "embedding_width", "dim_out", "var_name", "exclude_types", "bias_atom_e"),
    },
    "model": {
        *("@class", "@version", "@variables", "type", "type_map", "descriptor", "fitting_net", "rcond", "info"),
        *("preset_out_bias", "data_stat_nbatch", "data_stat_protect", "data_bias_nsample", "srtab_add_bias"),
        *("model_branch_alias", "bridging_r_inner", "bridging_r_outer", "finetune_head", "finetune_multi_task"),
        *("resuming", "new_type_map", "bias_adjust_mode", "_comment", "seed", "type_embedding"),
    },
}
"""Options that change no number of a trained model, or that are read elsewhere."""

_PRECISIONS = {
    "default": "float64",
    "double": "float64",
    "float64": "float64",
    "float32": "float32",
    "single": "float32",
}
_DESCRIPTOR_DEFAULTS: dict[str, Any] = {
    "activation_function": "silu",
    "precision": "default",
    "concat_output_tebd": False,
    "use_econf_tebd": False,
    "use_tebd_bias": False,
    "env_protection": 0.0,
    "exclude_types": [],
    "add_chg_spin_ebd": False,
    "default_chg_spin": None,
}
_FITTING_DEFAULTS: dict[str, Any] = {
    "neuron": [128, 128, 128],
    "resnet_dt": True,
    "activation_function": "tanh",
    "precision": "default",
    "numb_fparam": 0,
    "numb_aparam": 0,
    "dim_case_embd": 0,
    "default_fparam": None,
    "mixed_types": True,
    "use_aparam_as_mask": False,
    "tot_ener_zero": False,
    "spin": None,
}


def net_options(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Arguments of `DPA3` for the model section of a deepmd-kit model.

    Args:
        section: with `type_map`, `descriptor` (and `repflow` inside it) and `fitting_net`.
        where: what to call the file in messages.

    Raises:
        FileFormatError: another kind of model, an option that is missing, unknown or not supported.
    """
    types = section.get("type_map")
    if not isinstance(types, list) or not all(isinstance(name, str) for name in types):
        raise FileFormatError(f"{where}: its type_map is {types!r}, expected a list of chemical symbols")
    _refuse_other_models(section, where)
    descriptor = _with_defaults(section["descriptor"], _DESCRIPTOR_DEFAULTS, "descriptor", where)
    fitting = _with_defaults(section["fitting_net"], _FITTING_DEFAULTS, "fitting_net", where)
    precision = _precision(descriptor["precision"], where)
    fitting_precision = _precision(fitting["precision"], where)
    return {
        "elements": list(types),
        **_repflow_options(descriptor.get("repflow"), where),
        "environment_protection": float(descriptor["env_protection"]),
        "activation": _activation(descriptor["activation_function"]),
        "type_embedding": "electron_configuration" if descriptor["use_econf_tebd"] else "table",
        "type_embedding_bias": bool(descriptor["use_tebd_bias"]),
        "concat_type_embedding": bool(descriptor["concat_output_tebd"]),
        "charge_spin_embedding": bool(descriptor["add_chg_spin_ebd"]),
        "default_charge_spin": _charge_spin(descriptor["default_chg_spin"]),
        "excluded_pairs": _excluded_pairs(section, descriptor, types, where),
        "excluded_elements": _excluded_elements(section, fitting, types, where),
        "fitting_layers": [int(width) for width in fitting["neuron"]],
        "fitting_activation": _activation(fitting["activation_function"]),
        "fitting_timestep": bool(fitting["resnet_dt"]),
        "frame_parameters": int(fitting["numb_fparam"]),
        "atom_parameters": int(fitting["numb_aparam"]),
        "dataset_encoding": int(fitting["dim_case_embd"]),
        "precision": precision,
        "fitting_precision": None if fitting_precision == precision else fitting_precision,
        "initialization": "published",
    }


def _refuse_other_models(section: Mapping[str, Any], where: str) -> None:
    for key in ("descriptor", "fitting_net"):
        if not isinstance(section.get(key), Mapping):
            raise FileFormatError(f"{where}: its model has no '{key}', so it is not an energy model with DPA3")
    kinds = {
        "model": (section.get("type", "standard"), ("standard", None)),
        "descriptor": (section["descriptor"].get("type"), ("dpa3",)),
        "fitting net": (section["fitting_net"].get("type", "ener"), ("ener",)),
        "fitted quantity": (section["fitting_net"].get("var_name", "energy"), ("energy",)),
        "bridging method": (section.get("bridging_method", "None"), ("None", None)),
    }
    for part, (found, expected) in kinds.items():
        if found not in expected:
            raise FileFormatError(f"{where}: its {part} is '{found}'; only '{expected[0]}' can be imported")
    odd = [
        key
        for key, value in section.items()
        if key not in _WITHOUT_MEANING["model"] and not key.endswith("exclude_types") and _says_something(value)
    ]
    if odd and odd != ["bridging_method"]:
        raise FileFormatError(f"{where}: its model section has the option '{odd[0]}', which can't be imported")


def _says_something(value: Any) -> bool:
    plain = value is None or isinstance(value, bool | int | float | str | list | dict)
    return not plain or (bool(value) and value != "None")


def _with_defaults(section: Mapping[str, Any], defaults: Mapping[str, Any], part: str, where: str) -> dict[str, Any]:
    for key, value in section.items():
        known = key in defaults or key in _WITHOUT_MEANING[part] or key.startswith("_")
        if not known and _says_something(value):
            raise FileFormatError(f"{where}: its {part} has the option '{key}', which is unknown here")
    for key in ("use_aparam_as_mask", "tot_ener_zero", "spin"):
        if section.get(key):
            raise FileFormatError(f"{where}: its {part} uses '{key}', which can't be imported")
    if section.get("mixed_types") is False:
        raise FileFormatError(f"{where}: its fitting net has one net per type, which can't be imported")
    if section.get("default_fparam"):
        warnings.warn(
            f"{where}: default_fparam={section['default_fparam']} is not kept; give 'frame_parameters' with each graph",
            GeomlibWarning,
            stacklevel=4,
        )
    return {**defaults, **section}


def _repflow_options(section: Any, where: str) -> dict[str, Any]:
    if not isinstance(section, Mapping):
        raise FileFormatError(f"{where}: its descriptor has no section 'repflow'")
    given: dict[str, Any] = {_OLD_SPELLINGS.get(str(key), str(key)): value for key, value in section.items()}
    if given.get("skip_stat"):
        given["fix_stat_std"] = 0.3
    for key, value in given.items():
        known = key in _REPFLOW or key in _WITHOUT_MEANING["repflow"] or key.startswith("_")
        if not known and _says_something(value):
            raise FileFormatError(f"{where}: its repflow has the option '{key}', which is unknown here")
    options = {}
    for key, (name, default, convert) in _REPFLOW.items():
        value = given.get(key, default)
        if value is None:
            raise FileFormatError(f"{where}: its repflow lacks the option '{key}'")
        try:
            options[name] = convert(value)
        except (KeyError, TypeError, ValueError):
            raise FileFormatError(f"{where}: its repflow has {key}={value!r}, which is not understood") from None
    return options


def _activation(name: Any) -> str:
    return str(name).lower().replace("custom_silu", "silut")


def _precision(name: Any, where: str) -> str:
    if name in ("float16", "bfloat16", "half"):
        warnings.warn(f"{where}: {name} weights are taken over to float32", GeomlibWarning, stacklevel=4)
        return "float32"
    if name not in _PRECISIONS:
        raise FileFormatError(f"{where}: its precision is {name!r}; known: {', '.join(_PRECISIONS)}")
    return _PRECISIONS[name]


def _excluded_pairs(
    section: Mapping[str, Any], descriptor: Mapping[str, Any], types: list[str], where: str
) -> list[list[str]] | None:
    pairs = [*(descriptor["exclude_types"] or []), *(section.get("pair_exclude_types") or [])]
    try:
        names = sorted({tuple(sorted((int(a), int(b)))) for a, b in pairs})
        return [[types[a], types[b]] for a, b in names] or None
    except (IndexError, TypeError, ValueError):
        raise FileFormatError(f"{where}: excluded pairs {pairs} are not pairs of type indices") from None


def _excluded_elements(
    section: Mapping[str, Any], fitting: Mapping[str, Any], types: list[str], where: str
) -> list[str] | None:
    of_model, of_fitting = section.get("atom_exclude_types") or [], fitting.get("exclude_types") or []
    if of_fitting and sorted(of_fitting) != sorted(of_model):
        raise FileFormatError(
            f"{where}: excluded types of the model {of_model} and of its fitting net {of_fitting} differ"
        )
    try:
        return [types[int(index)] for index in sorted(set(of_model))] or None
    except (IndexError, TypeError, ValueError):
        raise FileFormatError(f"{where}: excluded types {of_model} are not type indices") from None
