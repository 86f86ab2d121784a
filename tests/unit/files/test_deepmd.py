"""Budget: 25 s. Every file is written by the test from a random net; the stored numbers of deepmd-kit itself are in
tests/parity."""

import copy
import json
import zipfile

import h5py
import numpy as np
import pytest
import torch

import geomlib
from geomlib.cli import main
from geomlib.errors import ConfigError, DataError, FileFormatError, GeomlibWarning, UnknownElement
from geomlib.files.deepmd import import_deepmd
from geomlib.files.deepmd_export import export_deepmd
from geomlib.files.header import read_manifest
from geomlib.models import MultiHeadDPA3

WIDTHS = {"node_dim": 8, "edge_dim": 6, "angle_dim": 4, "layers": 2, "fitting_layers": [8]}
SHORT = {"max_neighbors": 12, "max_angle_neighbors": 6}  # the statistics are repeated this often in the files
FIXED = {**SHORT, "selection": "fixed"}
VARIANTS = {
    "water example": {},
    "fixed quintic": {**FIXED, "switch": "quintic", "smooth_edge_update": False, "edge_init": "inverse_distance"},
    "no angles": {"update_angles": False},
    "average": {"update_style": "average", "edge_messages": 2},
    "increment": {"update_style": "increment", "angle_compression": 0},
    "sequential": {"update_order": "sequential", "residual_init": "normal", "residual_scale": 0.2},
    "linear compression": {"angle_compression": 2, "angle_edge_compression": 1, "split_compression": False},
    "econf": {"type_embedding": "electron_configuration", "type_embedding_bias": True, "concat_type_embedding": True},
    "charge and spin": {"charge_spin_embedding": True, "default_charge_spin": [0, 1]},
    "parameters": {"frame_parameters": 2, "atom_parameters": 3, "dataset_encoding": 4},
    "excluded": {"excluded_pairs": [["H", "H"], ["O", "H"]], "excluded_elements": ["H"]},
    "tanh without time-step": {"fitting_timestep": False, "fitting_activation": "tanh", "activation": "silu"},
    "mixed precision": {"precision": "float32", "fitting_precision": "float64"},
    "protected": {"environment_protection": 0.1, "environment_scale": 0.0},
}


def assert_equal_nets(found, expected):
    ignored = {"initialization"}
    assert {k: v for k, v in found.config.items() if k not in ignored} == {
        k: v for k, v in expected.config.items() if k not in ignored
    }
    assert list(found.state_dict()) == list(expected.state_dict())
    for name, value in expected.state_dict().items():
        assert found.state_dict()[name].dtype == value.dtype, name
        assert torch.equal(found.state_dict()[name], value), name


@pytest.fixture
def net(tiny):
    return tiny(**SHORT)


@pytest.fixture
def tree(net, deepmd_tree):
    return deepmd_tree(net)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("form", ["dp", "yaml", "pt"])
def test_every_option_and_array_arrives(tiny, deepmd_tree, write_dp, write_yaml, write_pt, variant, form):
    net = tiny(**{**SHORT, **VARIANTS[variant]})
    if form == "pt":

        def exclude(state):
            section = state["_extra_state"]["model_params"]
            section["atom_exclude_types"] = [net.elements.index(name) for name in net.config["excluded_elements"] or []]

        file = write_pt(net, change=exclude)
    else:
        file = {"dp": write_dp, "yaml": write_yaml}[form](deepmd_tree(net))
    imported = import_deepmd(file)
    if variant == "excluded":
        imported.config["excluded_pairs"].sort(reverse=True)
        assert imported.config["excluded_pairs"] == [["O", "H"], ["H", "H"]]
        imported.config["excluded_pairs"] = net.config["excluded_pairs"]
    assert_equal_nets(imported, net)


def test_predictions_agree_through_the_command_line(net, tree, cluster, write_dp, tmp_path, capsys):
    target = tmp_path / "out" / "model.safetensors"
    assert main(["model", "import", str(write_dp(tree)), str(target)]) == 0
    assert "geomlib model verify" in capsys.readouterr().out
    loaded = geomlib.load(target)
    assert torch.equal(loaded(cluster(net))["energy"], net(cluster(net))["energy"])
    source = read_manifest(target)["source"]
    assert source["software"] == "deepmd-kit"
    assert source["version"] == "3.2.0"
    assert source["file"] == "model.dp"
    assert len(source["sha256"]) == 64
    assert main(["model", "verify", str(target)]) == 0


def test_import_in_another_precision(tree, write_dp, tmp_path):
    target = tmp_path / "model.safetensors"
    assert main(["model", "import", str(write_dp(tree)), str(target), "--dtype", "float32"]) == 0
    net = geomlib.load(target).net
    assert net.config["precision"] == "float32"
    assert net.blocks[0].node_self.weight.dtype == torch.float32
    assert net.energy_bias.dtype == torch.float64


def test_old_spellings(net, tree, write_dp):
    tree["model"]["descriptor"]["activation_function"] = "custom_silu:10"
    tree["model"]["fitting"]["activation_function"] = "custom_silu:10"
    flow = tree["model"]["descriptor"]["repflow_args"]
    del flow["optim_update"], flow["update_residual_init"]
    flow["skip_stat"], flow["fix_stat_std"] = True, 0.0  # the old option wins
    flow["edge_use_dist"] = flow.pop("edge_init_use_dist")
    flow["use_env_envelope"] = flow.pop("use_exp_switch")
    assert_equal_nets(import_deepmd(write_dp(tree)), net)


def test_first_descriptor_version(tiny, deepmd_tree, write_dp):
    net = tiny(**FIXED, switch="quintic")
    tree = deepmd_tree(net)
    descriptor = tree["model"]["descriptor"]
    descriptor["@version"] = 1
    for key in ("sequential_update", "use_dynamic_sel", "sel_reduce_factor", "use_exp_switch"):
        del descriptor["repflow_args"][key]
    for layer in descriptor["repflow_variable"]["repflow_layers"]:
        for name, vectors in layer.pop("@variables").items():
            layer[name] = [vector.tolist() for vector in vectors]
    assert_equal_nets(import_deepmd(write_dp(tree)), net)


def test_second_copy_of_the_fitting_net(net, write_pt):
    def repeat(state):
        for name in [name for name in state if "filter_layers" in name]:
            state[name.replace("filter_layers.", "filter_layers._")] = state[name].clone()

    assert_equal_nets(import_deepmd(write_pt(net, change=repeat)), net)

    def spoil(state):
        repeat(state)
        state["model.Default.atomic_model.fitting_net.filter_layers._networks.0.layers.1.bias"][0] += 1

    with pytest.raises(FileFormatError, match="differs from its copy"):
        import_deepmd(write_pt(net, change=spoil))


def test_bare_state_without_optimizer(net, write_pt, tmp_path):
    torch.save(torch.load(write_pt(net), weights_only=True)["model"], tmp_path / "bare.pt")
    assert_equal_nets(import_deepmd(tmp_path / "bare.pt"), net)


def test_heads(tiny, write_pt):
    nets = {"Water": tiny(**SHORT, dataset_encoding=2), "Molecules": tiny(**SHORT, dataset_encoding=2)}
    with torch.no_grad():
        nets["Water"].energy_bias.mul_(2.0)
        nets["Water"].fitting.dataset_code.copy_(torch.tensor([0.0, 1.0]))
    file = write_pt(nets)
    for head, net in nets.items():
        assert_equal_nets(import_deepmd(file, head), net)
    with pytest.raises(ConfigError, match="several heads, choose one with --head; it has Molecules, Water"):
        import_deepmd(file)
    with pytest.raises(ConfigError, match=r"no head 'water' \(did you mean 'Water'\?\); it has Molecules, Water"):
        import_deepmd(file, "water")


def test_a_head_where_there_are_none(net, tree, write_dp, write_pt):
    for file in (write_dp(tree), write_pt(net)):
        with pytest.raises(ConfigError, match="without heads"):
            import_deepmd(file, "Water")


def test_averaged_weights_are_mentioned(net, write_pt):
    file = write_pt(net)
    torch.save({**torch.load(file, weights_only=True), "ema": {"model": {}}}, file)
    with pytest.warns(GeomlibWarning, match="averaged"):
        import_deepmd(file)


def test_one_table_row_per_channel_adds_the_input(tiny, deepmd_tree, write_dp):
    """Where the number of types is the width, or half of it, deepmd-kit's embedding adds its input."""
    for elements, repeats in ((["H", "C", "N", "O", "F", "P", "S", "Cl"], 1), (["H", "C", "N", "O"], 2)):
        net = import_deepmd(write_dp(deepmd_tree(tiny(elements, **SHORT))))
        weight = net.type_embedding.linear.weight
        expected = weight.T + torch.eye(len(elements)).repeat(1, repeats)
        torch.testing.assert_close(net.type_embedding(), expected.double(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["davg", "dstd"])
def test_statistics_that_differ_between_slots(tree, write_dp, name):
    tree["model"]["descriptor"]["repflow_variable"]["@variables"][name][0, 3, 0] += 1e-9
    with pytest.raises(DataError, match="permutation invariance"):
        import_deepmd(write_dp(tree))


def layer_of(tree):
    return tree["model"]["descriptor"]["repflow_variable"]["repflow_layers"][1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: layer_of(tree).update(new_linear={"@variables": {"w": np.ones((2, 2))}}), "new_linear.matrix"),
        (lambda tree: layer_of(tree)["node_self_mlp"]["@variables"].update(idt=np.ones(8)), r"node_self_mlp\.idt"),
        (lambda tree: layer_of(tree).pop("edge_self_linear"), r"lacks the array '.*edge_self_linear\.matrix'"),
        (
            lambda tree: layer_of(tree)["edge_self_linear"]["@variables"].update(b=None),
            r"lacks the array '.*edge_self_linear\.bias'",
        ),
        (
            lambda tree: layer_of(tree)["node_self_mlp"]["@variables"].update(w=np.ones((8, 9))),
            r"'blocks\.1\.node_self\.weight' has shape \[9, 8\], its options ask for \[8, 8\]",
        ),
        (
            lambda tree: layer_of(tree)["node_self_mlp"]["@variables"].update(b=np.full(8, np.nan)),
            "is not finite",
        ),
        (lambda tree: tree["model"]["fitting"]["@variables"].update(case_embd=np.ones(3)), "'fitting.dataset_code'"),
        (lambda tree: tree["model"]["@variables"].update(out_bias=np.ones((2, 2, 1))), "out_bias has shape"),
        (lambda tree: tree["model"]["descriptor"]["repflow_args"].update(layers_of_attention=2), "layers_of_attention"),
        (lambda tree: tree["model"]["descriptor"].update(use_magic=True), "descriptor has the option 'use_magic'"),
        (lambda tree: tree["model"]["fitting"].update(tot_ener_zero=True), "tot_ener_zero"),
        (lambda tree: tree["model"]["fitting"].update(mixed_types=False), "one net per type"),
        (lambda tree: tree["model"].update(spin={"use_spin": [True]}), "option 'spin'"),
        (lambda tree: tree["model"].update(bridging_method="zbl"), "bridging method is 'zbl'"),
        (lambda tree: tree["model"].update(type="dipole"), "model is 'dipole'; only 'standard'"),
        (lambda tree: tree["model"]["descriptor"].update(type="dpa2"), "descriptor is 'dpa2'; only 'dpa3'"),
        (lambda tree: tree["model"]["fitting"].update(type="polar"), "fitting net is 'polar'"),
        (lambda tree: tree["model"].pop("fitting"), "has no 'fitting'"),
        (lambda tree: tree["model"]["descriptor"]["repflow_args"].pop("e_rcut"), "lacks the option 'e_rcut'"),
        (lambda tree: tree["model"]["descriptor"]["repflow_args"].update(e_sel="auto"), "e_sel='auto'"),
        (lambda tree: tree["model"]["descriptor"]["repflow_args"].update(update_style="new"), "update_style='new'"),
        (lambda tree: tree["model"]["descriptor"].update(precision="int8"), "precision is 'int8'"),
        (lambda tree: tree["model"]["descriptor"].update(exclude_types=[[0, 9]]), "not pairs of type indices"),
        (lambda tree: tree["model"]["fitting"].update(exclude_types=[1]), "differ"),
        (lambda tree: tree["model"].update(type_map=["OW", "HW"]), "'OW' is no chemical element"),
        (lambda tree: tree["model"].update(type_map=[True, "O"]), "type_map is"),
    ],
    ids=range(26),
)
def test_nothing_is_dropped_or_guessed(tree, write_dp, write_yaml, change, message):
    change(tree)
    for file in (write_dp(tree), write_yaml(tree)):
        with pytest.raises((FileFormatError, DataError, UnknownElement), match=message) as caught:
            import_deepmd(file)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_default_frame_parameters_are_said_not_to_be_kept(tiny, deepmd_tree, write_dp):
    tree = deepmd_tree(tiny(**SHORT, frame_parameters=2))
    tree["model"]["fitting"]["default_fparam"] = [0.0, 1.0]
    with pytest.warns(GeomlibWarning, match="default_fparam"):
        import_deepmd(write_dp(tree))


def test_model_pair_exclusions_join_those_of_the_descriptor(tree, write_dp):
    tree["model"]["pair_exclude_types"] = [[1, 0]]
    tree["model"]["descriptor"]["exclude_types"] = [[1, 1]]
    assert import_deepmd(write_dp(tree)).config["excluded_pairs"] == [["O", "H"], ["H", "H"]]


def test_unused_and_missing_datasets(tree, write_dp):
    file = write_dp(tree)
    with h5py.File(file, "a") as opened:
        opened["variable_9999"] = np.ones(3)
    with pytest.raises(FileFormatError, match=r"does not name: \['/variable_9999'\]"):
        import_deepmd(file)
    with h5py.File(file, "a") as opened:
        del opened["variable_9999"], opened["variable_0003"]
    with pytest.raises(FileFormatError, match="names the array '/variable_0003', which is missing"):
        import_deepmd(file)


def test_hdf5_reaches_for_no_other_file(tree, write_dp, tmp_path):
    secret = tmp_path / "secret.bin"
    np.arange(8.0).tofile(secret)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["data"] = np.arange(8.0)

    def external_link(opened):
        opened["variable_0000"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "data")

    def soft_link(opened):
        opened["variable_0000"] = h5py.SoftLink("/variable_0001")

    def external_storage(opened):
        opened.create_dataset("variable_0000", (8,), dtype="f8", external=[(str(secret), 0, 64)])

    def virtual(opened):
        layout = h5py.VirtualLayout((8,), dtype="f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "data", shape=(8,))
        opened.create_virtual_dataset("variable_0000", layout)

    for k, make in enumerate((external_link, soft_link, external_storage, virtual)):
        file = write_dp(tree, f"{k}.dp")
        with h5py.File(file, "a") as opened:
            del opened["variable_0000"]
            make(opened)
        with pytest.raises(FileFormatError, match="is no plain array of this file"):
            import_deepmd(file)


def test_hdf5_arrays_of_other_kinds_and_sizes(tree, write_dp):
    for k, (make, message) in enumerate(
        (
            (lambda opened: opened.create_dataset("variable_0000", data=[b"text"]), "expected numbers"),
            (lambda opened: opened.create_dataset("variable_0000", (2**40,), "f8", chunks=True), "more than 4 GiB"),
        )
    ):
        file = write_dp(tree, f"{k}.dp")
        with h5py.File(file, "a") as opened:
            del opened["variable_0000"]
            make(opened)
        with pytest.raises(FileFormatError, match=message):
            import_deepmd(file)


def test_truncated_files(net, tree, write_dp, write_yaml, write_pt):
    for file in (write_dp(tree), write_pt(net), write_yaml(tree)):
        whole = file.read_bytes()
        for share in (0.0, 0.2, 0.5, 0.9):
            file.write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(FileFormatError, match=file.name):
                import_deepmd(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: !!python/object/apply:os.system ['touch payload-has-run']", "no readable YAML"),
        ("model: !!python/name:os.system", "no readable YAML"),
        (
            "a: &a [1, 1]\nmodel:\n  b: &b [*a, *a, *a, *a, *a, *a, *a, *a]\n  c: [*b, *b, *b, *b, *b, *b, *b, *b]",
            "more values",
        ),
        ("model: &m\n  again: *m", "refers to itself|more values"),
        ("[1, 2", "no readable YAML"),
        ("- 1", "holds no 'model'"),
        ("model: {'@class': np.ndarray}", "has no 'descriptor'|can't be read"),
        ("model: {descriptor: {'@class': np.ndarray, dtype: object, value: [1]}, fitting: {}}", "expected numbers"),
        ("model: {descriptor: {'@class': np.ndarray, dtype: float64, value: [x]}, fitting: {}}", "can't be read"),
        ("model: " + "[" * 5000, "no readable YAML|refers to itself"),
    ],
    ids=range(10),
)
def test_yaml_is_plain_data(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "model.yaml"
    file.write_text(text)
    with pytest.raises(FileFormatError, match=message):
        import_deepmd(file)
    assert [path.name for path in tmp_path.iterdir()] == ["model.yaml"]


def test_aliases_that_a_dumper_writes_are_fine(net, tree, write_yaml):
    shared = ["O", "H"]
    tree["model"]["type_map"] = shared
    tree["model"]["descriptor"]["type_map"] = shared
    file = write_yaml(copy.copy(tree))
    assert_equal_nets(import_deepmd(file), net)


@pytest.mark.parametrize(
    ("name", "members", "message"),
    [
        ("model.pth", ["model/constants.pkl", "model/code/__torch__.py"], "frozen TorchScript model.*convert-backend"),
        ("model.pt2", ["model/data/aotinductor/model/a.so"], "compiled model.*convert-backend"),
    ],
)
def test_frozen_models_are_refused_with_advice(tmp_path, name, members, message):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        for member in members:
            archive.writestr(member, b"x")
    with pytest.raises(FileFormatError, match=message):
        import_deepmd(tmp_path / name)


def test_other_kinds_of_files(tmp_path):
    (tmp_path / "model.savedmodel").mkdir()
    for name, message in (
        ("model.pb", "frozen TensorFlow graph.*convert-backend"),
        ("model.savedmodel", "frozen JAX model.*convert-backend"),
        ("model.json", "frozen Paddle model"),
        ("model.txt", "no model of deepmd-kit that can be read"),
        ("model.safetensors", "no model of deepmd-kit that can be read"),
    ):
        if not (tmp_path / name).exists():
            (tmp_path / name).write_text("x")
        with pytest.raises(FileFormatError, match=message):
            import_deepmd(tmp_path / name)
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "other.pt")
    with pytest.raises(FileFormatError, match="no 'model_params'"):
        import_deepmd(tmp_path / "other.pt")
    with h5py.File(tmp_path / "data.dp", "w") as file:
        file["set"] = np.ones(3)
    with pytest.raises(FileFormatError, match="without the attribute 'json'"):
        import_deepmd(tmp_path / "data.dp")


def test_random_numbers_are_left_alone(tree, write_dp):
    file = write_dp(tree)
    before = torch.random.get_rng_state()
    import_deepmd(file)
    assert torch.equal(torch.random.get_rng_state(), before)


# --- export ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("form", ["dp", "yaml"])
def test_what_is_exported_is_imported_bit_for_bit(tiny, tmp_path, variant, form):
    net = tiny(**{**SHORT, **VARIANTS[variant]})
    if net.config["excluded_pairs"]:
        net.config["excluded_pairs"] = [["O", "H"], ["H", "H"]]  # in the order of the elements, as an import gives them
    assert_equal_nets(import_deepmd(export_deepmd(net, tmp_path / f"model.{form}")), net)


def test_biases_of_a_data_set_are_exported_as_plain_ones(tiny, cluster, tmp_path):
    net = tiny(**SHORT, fitting_layers=[8, 8], dataset_encoding=2, dataset_biases=True).eval()
    net.fitting.dataset_code = torch.tensor([0.0, 1.0]).to(net.fitting.dataset_code)
    again = import_deepmd(export_deepmd(net, tmp_path / "model.dp")).eval()
    assert not again.config["dataset_biases"] and again.config["dataset_encoding"] == 2
    torch.testing.assert_close(again(cluster(net))["energy"], net(cluster(net))["energy"], rtol=1e-13, atol=1e-12)


def test_the_precision_that_is_exported_is_that_of_the_weights(tiny, tmp_path):
    net = tiny(precision="float64").to(torch.float32)
    found = import_deepmd(export_deepmd(net, tmp_path / "model.dp"))
    assert found.config["precision"] == "float32"
    assert torch.equal(found.energy_bias, net.energy_bias), "the energies of the elements stay in float64"
    assert torch.equal(found.fitting.layers[0].weight, net.fitting.layers[0].weight)


def test_what_deepmd_has_no_word_for_is_refused_and_leaves_the_old_file(tiny, tmp_path):
    file = export_deepmd(tiny(**SHORT), tmp_path / "model.dp")
    before = file.read_bytes()
    for net, message in (
        (tiny(**SHORT).to(torch.bfloat16), "bfloat16 weights can't be exported.*float32"),
        (tiny(**SHORT, fitting_layers=[]), "without hidden fitting layers"),
        (MultiHeadDPA3(["a", "b"], elements=["O", "H"], **WIDTHS), "heads a, b can't be exported.*choose one"),
        (torch.nn.Linear(1, 1), "is not a geomlib net"),
    ):
        with pytest.raises(ConfigError, match=message):
            export_deepmd(net, file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.dp"]
    with pytest.raises(FileFormatError, match=r"model.pt: .* written as .dp or .yaml"):
        export_deepmd(tiny(**SHORT), tmp_path / "model.pt")


def test_export_through_the_command_line(tiny, tmp_path, capsys):
    net = tiny(**SHORT)
    file = str(geomlib.save(net, tmp_path / "model.safetensors"))
    assert main(["model", "export", file, str(tmp_path / "new" / "model.dp")]) == 0
    assert "dp convert-backend" in capsys.readouterr().out
    assert_equal_nets(import_deepmd(tmp_path / "new" / "model.dp"), net)
    single = ["model", "export", file, str(tmp_path / "single.yaml"), "--format", "deepmd", "--dtype", "float32"]
    assert main([*single, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["format"] == "deepmd"
    assert answer["bytes"] == (tmp_path / "single.yaml").stat().st_size
    assert import_deepmd(tmp_path / "single.yaml").config["precision"] == "float32"
    assert main(["model", "export", file, str(tmp_path / "model.bin")]) == 1
    assert "model.bin: no format is written with this ending; use .dp" in capsys.readouterr().err


def test_one_head_is_exported(tmp_path, capsys):
    net = MultiHeadDPA3(["a", "b"], elements=["O", "H"], fitting="shared", **WIDTHS, **SHORT)
    file = str(geomlib.save(net, tmp_path / "model.safetensors"))
    assert main(["model", "export", file, str(tmp_path / "b.dp"), "--head", "b"]) == 0
    assert_equal_nets(import_deepmd(tmp_path / "b.dp"), net.single("b"))
    assert main(["model", "export", file, str(tmp_path / "model.dp")]) == 1
    assert "head" in capsys.readouterr().err.splitlines()[-1]
