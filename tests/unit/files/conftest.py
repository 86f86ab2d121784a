"""Writers of deepmd-kit files, made from random nets: the importers are tested without foreign data."""

import copy
import json
import pickle

import h5py
import numpy as np
import pytest
import torch
import yaml

from geomlib.data.graph import GraphData
from geomlib.models import DPA3

WIDTHS = {
    "node_dim": 8,
    "edge_dim": 6,
    "angle_dim": 4,
    "layers": 2,
    "fitting_layers": [8, 8, 16],
    "precision": "float64",
}


@pytest.fixture
def tiny():
    """Make a tiny DPA3 whose parameters and buffers are all random (the residual vectors too)."""

    def make(elements=("O", "H"), **options):
        options = {**WIDTHS, **options}
        net = DPA3(list(elements), **options)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for value in [*net.parameters(), *net.buffers()]:
                if value.is_floating_point():
                    value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64) * 0.3)
            net.environment_mean.zero_()
            net.environment_stddev.copy_(0.2 + torch.rand(net.environment_stddev.shape, generator=generator))
            for name in (
                "type_embedding",
                "excluded",
                "has_energy",
            ):  # these are no weights: as the constructor made them
                fresh = DPA3(list(elements), **options)
                if name == "type_embedding":
                    net.type_embedding.code.copy_(fresh.type_embedding.code)
                elif getattr(fresh, name) is not None:
                    getattr(net, name).copy_(getattr(fresh, name))
        return net.eval()

    return make


@pytest.fixture
def cluster():
    """Four atoms of the given elements, with structure for `net`."""

    def make(net, numbers=(8, 1, 1, 8)):
        pos = torch.tensor([[0.0, 0, 0], [0.9, 0.2, 0], [-0.3, 0.9, 0.1], [0.2, -0.4, 2.5]], dtype=torch.float64)
        return net.spec.build(GraphData(pos=pos, atomic_number=torch.tensor(numbers)))

    return make


STYLES = {"residual": "res_residual", "average": "res_avg", "increment": "res_incr"}
NAMES = {
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


def array(value):
    return value.detach().numpy().copy()


def layer(linear, idt=None):
    return {
        "@class": "Layer",
        "@version": 2,
        "bias": linear.bias is not None,
        "use_timestep": idt is not None,
        "@variables": {
            "w": array(linear.weight).T.copy(),
            "b": None if linear.bias is None else array(linear.bias),
            "idt": None if idt is None else array(idt),
        },
    }


def embedding(linear):
    return {"@class": "TypeEmbedNet", "@version": 2, "embedding": {"@version": 2, "layers": [layer(linear)]}}


def repflow(config):
    return {
        "n_dim": config["node_dim"],
        "e_dim": config["edge_dim"],
        "a_dim": config["angle_dim"],
        "nlayers": config["layers"],
        "e_rcut": config["cutoff"],
        "e_rcut_smth": config["cutoff_smooth"],
        "e_sel": config["max_neighbors"],
        "a_rcut": config["angle_cutoff"],
        "a_rcut_smth": config["angle_cutoff_smooth"],
        "a_sel": config["max_angle_neighbors"],
        "a_compress_rate": config["angle_compression"],
        "a_compress_e_rate": config["angle_edge_compression"],
        "a_compress_use_split": config["split_compression"],
        "n_multi_edge_message": config["edge_messages"],
        "axis_neuron": config["symmetrization_axes"],
        "update_angle": config["update_angles"],
        "update_style": STYLES[config["update_style"]],
        "update_residual": config["residual_scale"],
        "update_residual_init": {"constant": "const", "normal": "norm"}[config["residual_init"]],
        "fix_stat_std": config["environment_scale"],
        "optim_update": True,
        "smooth_edge_update": config["smooth_edge_update"],
        "edge_init_use_dist": config["edge_init"] == "distance",
        "use_exp_switch": config["switch"] == "exponential",
        "use_dynamic_sel": config["selection"] == "dynamic",
        "sel_reduce_factor": config["selection_reduction"],
        "sequential_update": config["update_order"] == "sequential",
    }


def slots(value, count):
    return np.repeat(array(value)[:, None], count, axis=1)


def descriptor_options(config):
    index = config["elements"].index
    return {
        "type": "dpa3",
        "concat_output_tebd": config["concat_type_embedding"],
        "activation_function": config["activation"],
        "precision": config["precision"],
        "exclude_types": [[index(a), index(b)] for a, b in config["excluded_pairs"] or []],
        "env_protection": config["environment_protection"],
        "use_econf_tebd": config["type_embedding"] != "table",
        "use_tebd_bias": config["type_embedding_bias"],
        "add_chg_spin_ebd": config["charge_spin_embedding"],
        "default_chg_spin": config["default_charge_spin"],
        "use_loc_mapping": True,
        "trainable": True,
    }


def fitting_options(config):
    return {
        "type": "ener",
        "neuron": config["fitting_layers"],
        "resnet_dt": config["fitting_timestep"],
        "numb_fparam": config["frame_parameters"],
        "numb_aparam": config["atom_parameters"],
        "dim_case_embd": config["dataset_encoding"],
        "activation_function": config["fitting_activation"],
        "precision": config["fitting_precision"] or config["precision"],
        "mixed_types": True,
    }


def block(part, config):
    out = {NAMES[name]: layer(module) for name, module in part.named_children() if name in NAMES}
    if config["update_style"] == "residual":
        out["@variables"] = {
            f"{letter}_residual": [array(vector) for vector in vectors]
            for letter, vectors in zip(
                "nea", (part.node_residuals, part.edge_residuals, part.angle_residuals), strict=True
            )
        }
    return out


def optional(value):
    return array(value) if value.numel() else None


def tree_of(net):
    """The serialized form of deepmd-kit: nested dictionaries, with numpy arrays below `@variables`."""
    config, fitting = net.config, net.fitting
    descriptor = {
        "@class": "Descriptor",
        "@version": 2,
        "ntypes": len(net.elements),
        "type_map": net.elements,
        **descriptor_options(config),
        "repflow_args": repflow(config),
        "type_embedding": embedding(net.type_embedding.linear),
        "repflow_variable": {
            "edge_embd": layer(net.edge_embedding),
            "angle_embd": layer(net.angle_embedding),
            "repflow_layers": [block(part, config) for part in net.blocks],
            "env_mat": {"rcut": 1.0, "rcut_smth": 0.5, "protection": 9.0, "use_exp_switch": False},  # a trap
            "@variables": {
                "davg": slots(net.environment_mean, config["max_neighbors"]),
                "dstd": slots(net.environment_stddev, config["max_neighbors"]),
            },
        },
    }
    if config["charge_spin_embedding"]:
        descriptor["chg_embedding"] = embedding(net.charge_embedding.linear)
        descriptor["spin_embedding"] = embedding(net.spin_embedding.linear)
        descriptor["mix_cs_mlp"] = layer(net.charge_spin_mix)
    layers = [layer(linear, fitting.timesteps.get(str(k))) for k, linear in enumerate(fitting.layers)]
    # the energy of the elements is the sum of two arrays; halves add up without rounding
    bias = array(net.energy_bias)
    return {
        "software": "deepmd-kit",
        "version": "3.2.0",
        "backend": "PyTorch",
        "model_def_script": {"type_map": net.elements},
        "model": {
            "@class": "Model",
            "@version": 2,
            "type": "standard",
            "type_map": net.elements,
            "atom_exclude_types": [net.elements.index(name) for name in config["excluded_elements"] or []],
            "pair_exclude_types": [],
            "rcond": None,
            "preset_out_bias": None,
            "@variables": {"out_bias": 0.5 * bias[None, :, None], "out_std": np.ones((1, len(bias), 1))},
            "descriptor": descriptor,
            "fitting": {
                "@class": "Fitting",
                "@version": 4,
                **fitting_options(config),
                "var_name": "energy",
                "nets": {"@class": "NetworkCollection", "networks": [{"@class": "FittingNetwork", "layers": layers}]},
                "exclude_types": [],
                "@variables": {
                    "bias_atom_e": 0.5 * bias[:, None],
                    "case_embd": optional(fitting.dataset_code),
                    "fparam_avg": optional(fitting.frame_mean),
                    "fparam_inv_std": optional(fitting.frame_inv_std),
                    "aparam_avg": optional(fitting.atom_mean),
                    "aparam_inv_std": optional(fitting.atom_inv_std),
                },
            },
        },
    }


def replace_arrays(value, store):
    if isinstance(value, dict):
        return {key: replace_arrays(item, store) for key, item in value.items()}
    if isinstance(value, list):
        return [replace_arrays(item, store) for item in value]
    return store(value) if isinstance(value, np.ndarray) else value


@pytest.fixture
def deepmd_tree():
    """Serialized form of a net."""
    return tree_of


@pytest.fixture
def write_dp(tmp_path):
    def write(tree, name="model.dp"):
        with h5py.File(tmp_path / name, "w") as file:

            def store(value):
                variable = f"/variable_{len(file):04d}"
                file.create_dataset(variable, data=value)
                return variable

            file.attrs["json"] = json.dumps(replace_arrays(tree, store))
        return tmp_path / name

    return write


@pytest.fixture
def write_yaml(tmp_path):
    def write(tree, name="model.yaml"):
        def store(value):
            entry = {"@class": "np.ndarray", "@is_variable": True, "@version": 1}
            return {**entry, "dtype": str(value.dtype), "value": value.tolist()}

        (tmp_path / name).write_text(yaml.safe_dump(replace_arrays(copy.deepcopy(tree), store)))
        return tmp_path / name

    return write


def checkpoint_arrays(net, prefix):
    """Arrays by the names of a training checkpoint."""
    state = {}

    def linear(name, module, idt=None):
        state[f"{prefix}{name}.matrix"] = module.weight.detach().T.contiguous()
        if module.bias is not None:
            state[f"{prefix}{name}.bias"] = module.bias.detach()
        if idt is not None:
            state[f"{prefix}{name}.idt"] = idt.detach()

    count, config = net.config["max_neighbors"], net.config
    state[f"{prefix.removesuffix('atomic_model.')}min_nbor_dist"] = torch.tensor(-1.0)
    state[f"{prefix}out_bias"] = net.energy_bias.reshape(1, -1, 1)
    state[f"{prefix}out_std"] = torch.ones(1, len(net.elements), 1)
    flows = "descriptor.repflows"
    state[f"{prefix}{flows}.mean"] = net.environment_mean[:, None].repeat(1, count, 1)
    state[f"{prefix}{flows}.stddev"] = net.environment_stddev[:, None].repeat(1, count, 1)
    linear(f"{flows}.edge_embd", net.edge_embedding)
    linear(f"{flows}.angle_embd", net.angle_embedding)
    linear("descriptor.type_embedding.embedding.embedding_net.layers.0", net.type_embedding.linear)
    if config["charge_spin_embedding"]:
        linear("descriptor.chg_embedding.embedding.embedding_net.layers.0", net.charge_embedding.linear)
        linear("descriptor.spin_embedding.embedding.embedding_net.layers.0", net.spin_embedding.linear)
        linear("descriptor.mix_cs_mlp", net.charge_spin_mix)
    for position, part in enumerate(net.blocks):
        for name, module in part.named_children():
            if name in NAMES:
                linear(f"{flows}.layers.{position}.{NAMES[name]}", module)
        for letter, name in zip("nea", ("node_residuals", "edge_residuals", "angle_residuals"), strict=True):
            for k, vector in enumerate(getattr(part, name)):
                state[f"{prefix}{flows}.layers.{position}.{letter}_residual.{k}"] = vector.detach()
    fitting = net.fitting
    state[f"{prefix}fitting_net.bias_atom_e"] = torch.zeros(len(net.elements), 1, dtype=torch.float64)
    for name, value in (
        ("case_embd", fitting.dataset_code),
        ("fparam_avg", fitting.frame_mean),
        ("fparam_inv_std", fitting.frame_inv_std),
        ("aparam_avg", fitting.atom_mean),
        ("aparam_inv_std", fitting.atom_inv_std),
    ):
        if value.numel():
            state[f"{prefix}fitting_net.{name}"] = value
    for k, module in enumerate(fitting.layers):
        idt = fitting.timesteps.get(str(k))
        linear(f"fitting_net.filter_layers.networks.0.layers.{k}", module, idt)
    return state


def checkpoint_section(net):
    return {
        "type_map": net.elements,
        "type": "standard",
        "descriptor": {**descriptor_options(net.config), "repflow": repflow(net.config), "seed": 1},
        "fitting_net": {**fitting_options(net.config), "seed": 1, "atom_ener": []},
        "atom_exclude_types": [],
        "pair_exclude_types": [],
        "info": {"observed_type": net.elements},
    }


@pytest.fixture
def write_pt(tmp_path):
    """Write a training checkpoint with one net (head None) or several, by head."""

    def write(nets, name="model.pt", change=lambda state: None):
        state = {}
        if isinstance(nets, dict):
            sections = {head: checkpoint_section(net) for head, net in nets.items()}
            parameters = {"shared_dict": {}, "model_dict": sections}
        else:
            parameters, nets = checkpoint_section(nets), {"Default": nets}
        for head, net in nets.items():
            state.update(checkpoint_arrays(net, f"model.{head}.atomic_model."))
        state["_extra_state"] = {"model_params": parameters, "train_infos": {"lr": 1e-3, "step": 3}}
        change(state)
        torch.save({"model": state, "optimizer": {}}, tmp_path / name)
        return tmp_path / name

    return write


class Poison:
    """Unpickling this creates a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


@pytest.fixture
def poison(tmp_path):
    """Write a pickle whose payload would create a file; returns (file, the file it would create)."""

    def write(name, kind="zip"):
        target = tmp_path / "payload-has-run"
        content = {"state_dict": {}, "geomlib": {}, "model": Poison(target)}
        if kind == "zip":
            torch.save(content, tmp_path / name)
        elif kind == "legacy":
            torch.save(content, tmp_path / name, _use_new_zipfile_serialization=False)
        else:
            (tmp_path / name).write_bytes(pickle.dumps(content, protocol=int(kind)))
        assert not target.exists()
        return tmp_path / name, target

    return write
