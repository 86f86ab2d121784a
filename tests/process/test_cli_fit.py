"""`geomlib fit` and its sisters on a tiny recipe: what they leave behind, and one line for each mistake."""

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml

import geomlib
from geomlib.cli import main
from geomlib.files.modelfile import read_manifest

SHORT = ["--trainer.max_epochs", "1", "--model.schedule", "Constant"]


def edited(old, new, name="wrong.yaml"):
    text = Path("tiny.yaml").read_text()
    assert old in text
    Path(name).write_text(text.replace(old, new))
    return ["-c", name]


def complaint(capfd, *words, code=1):
    capfd.readouterr()
    assert main(["fit", *words]) == code
    said = capfd.readouterr().err.strip()
    assert "\n" not in said and said.startswith("geomlib: error: "), said
    return said.removeprefix("geomlib: error: ")


def test_a_fit_leaves_a_run_folder_that_can_be_tested_and_used(here, capfd):
    assert main(["fit", "-c", "tiny.yaml", *SHORT, "--trainer.enable_progress_bar", "true"]) == 0
    said = capfd.readouterr()
    run = Path("runs/tiny/version_0")
    assert f"model file: {run}/model.safetensors (best weights by val/forces_mae, step 8)" in said.out
    assert f"next: geomlib test {run}" in said.out
    assert "epoch 1, step 8: F " in said.err and "meV/atom" in said.err and "warning" not in said.err
    for name in ("config.yaml", "metrics.csv", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "model.safetensors"):
        assert (run / name).is_file(), name
    assert set(yaml.safe_load((run / "config.yaml").read_text())) == {"seed_everything", "model", "data", "trainer"}
    header = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"step", "epoch", "train/loss", "lr-AdamW", "val/forces_mae", "val/energy_rmse"} <= set(header)
    manifest = read_manifest(run / "model.safetensors")
    assert manifest["metrics"].keys() == {"val/forces_mae"} and len(manifest["recipe_sha256"]) == 64

    assert main(["test", str(run)]) == 0
    table = capfd.readouterr().out
    assert "test set, 5 graphs" in table and "MAE of mean predictor" in table and "meV/Å" in table
    written = json.loads((run / "test_metrics.json").read_text())["metrics"]
    net = geomlib.load(run / "model.safetensors")
    from_checkpoint = geomlib.load(run / "checkpoints/best.ckpt")
    errors = []
    for atoms in ase.io.read("data.extxyz", "35:40"):
        graph = net.spec.build(geomlib.GraphData(**geomlib_fields(atoms)))
        errors.append(net(graph)["forces"].numpy() - atoms.get_forces())
        assert np.array_equal(errors[-1], from_checkpoint(graph)["forces"].numpy() - atoms.get_forces())
    assert written["forces_mae"] == pytest.approx(np.abs(np.concatenate(errors)).mean(), rel=1e-4)

    assert main(["validate", str(run)]) == 0
    assert "validation set" in capfd.readouterr().out
    assert main(["predict", str(run)]) == 0
    assert np.load(run / "predict.npz")["energy_prediction"].shape == (5,)
    # a saved configuration is a recipe: the same again, beside the first
    assert main(["fit", "-c", str(run / "config.yaml")]) == 0
    assert (run.parent / "version_1/model.safetensors").read_bytes()[-400:] == (run / "model.safetensors").read_bytes()[
        -400:
    ]


def geomlib_fields(atoms):
    from geomlib.data.atoms import from_atoms

    graph = from_atoms(atoms)
    return {name: graph[name] for name in graph.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "layers: 1",
            "layerz: 1",
            "wrong.yaml: 'model.net.layerz' is not an argument of DPA3 (did you mean 'layers'?)",
        ),
        ("weight: 10.0", "wieght: 10.0", "'model.terms.wieght' is not an argument of Term (did you mean 'weight'?)"),
        (
            "class_path: DPA3",
            "class_path: DPA33",
            "'model.net' names the class 'DPA33', which is unknown (did you mean",
        ),
        ("trainer:", "trainr:", "wrong.yaml: 'trainr' is not a section of a recipe (did you mean 'trainer'?)"),
        ("max_epochs", "max_epoch", "'trainer.max_epoch' is not a key (did you mean 'trainer.max_epochs'?)"),
        ("lr: 5.0e-3", "lrr: 5.0e-3", "'model.optimizer.lrr' is not an argument (did you mean 'lr'?)"),
        ("Exponential", "Exponental", "'model.schedule' names the class 'Exponental', which is unknown (did you mean"),
        ("path: data", "pth: data", "'data.store.pth' is not an argument of ExtxyzStore (did you mean 'path'?)"),
        ("layers: 1", "layers: one", "wrong.yaml: 'model.net.layers': expected int, got one"),
        ("max_epochs: 3", "max_epochs: soon", "wrong.yaml: 'trainer.max_epochs': expected int, got soon"),
        ("field: energy", "field: enrgy", "'enrgy' is not in the field table (did you mean 'energy'?)"),
        ("decay_steps: 2", "decay_steps: 2000", "decay_steps is 2000, but the run has 24 steps"),
        ("layers: 1", "layers: 0", "DPA3 layers=0"),
        ("[H, C, O]", "[H, C]", "data.extxyz, frame 1: element O is not among those of the net"),
        ("field: energy", "field: stress", "a term 'stress', but data.extxyz, frame 0 carries no such label"),
        ("path: data", "keys: {energy: dft}, path: data", "frame 0"),
        ("data.extxyz", "gone.extxyz", "gone.extxyz"),
        ("trainer:", "trainer: [", "wrong.yaml: is not YAML"),
        ("accelerator: cpu", "inference_mode: true", "trainer.inference_mode must stay false"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line(here, capfd, old, new, expected):
    assert expected in complaint(capfd, *edited(old, new))
    assert not list(Path().glob("**/*.ckpt"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model.net.layerz", "3"], "command line: 'model.net.layerz' is not an argument of DPA3"),
        (
            ["--model.optimiser.lr", "3"],
            "'model.optimiser.lr' is not an argument of PotentialTask (did you mean 'optimizer'?)",
        ),
        (["--resume", "a.ckpt", "--ckpt_path", "b.ckpt"], "--resume or --ckpt_path, not both"),
        (["--resume", "gone.ckpt"], "gone.ckpt: no such file"),
        (["--trainer.max_epochs", "soon"], "command line: 'trainer.max_epochs': expected int, got soon"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(here, capfd, words, expected):
    assert expected in complaint(capfd, "-c", "tiny.yaml", *words)


def test_a_fit_without_a_recipe_or_with_an_unknown_one(here, capfd):
    for words, expected in (
        ([], "there is no recipe: give one with -c"),
        (["-c", "tiny.yaml", "--trainer.max_epoch", "3"], "not an option (did you mean 'trainer.max_epochs'?)"),
    ):
        assert main(["fit", *words]) == 2
        said = capfd.readouterr().err.strip()
        assert said.startswith("geomlib fit: error: ") and expected in said and "\n" not in said
    Path("half.yaml").write_text(Path("tiny.yaml").read_text().split("data:")[0])
    assert complaint(capfd, "-c", "half.yaml") == "half.yaml: the recipe lacks 'data'"
    assert "no recipe is called 'tny'" in complaint(capfd, "-c", "tny")


def test_labels_that_are_not_numbers_name_file_frame_and_key(here, capfd):
    frames = ase.io.read("data.extxyz", ":")
    frames[12].calc.results["forces"][1, 2] = np.nan
    ase.io.write("data.extxyz", frames)
    said = complaint(capfd, "-c", "tiny.yaml")
    assert "data.extxyz, frame 12" in said and "forces" in said


def test_recipes_merge_from_left_to_right_and_typed_values_hold(here, capfd):
    Path("part.yaml").write_text("trainer: {max_epochs: 7}\nmodel: {init_args: {net: {init_args: {layers: 2}}}}\n")
    words = ["fit", "-c", "tiny.yaml", "-c", "part.yaml", "--model.net.node_dim", "16", "--print_config"]
    assert main(words) == 0
    merged = yaml.safe_load(capfd.readouterr().out)
    net = merged["model"]["init_args"]["net"]["init_args"]
    assert (net["layers"], net["node_dim"], net["edge_dim"], merged["trainer"]["max_epochs"]) == (2, 16, 8, 7)
    assert merged["trainer"]["inference_mode"] is False


def test_a_checkpoint_of_another_net_is_refused_by_name(here, capfd):
    assert main(["fit", "-c", "tiny.yaml", *SHORT, "--folder", "out"]) == 0
    last = ["--resume", "out/checkpoints/last.ckpt"]
    said = complaint(capfd, "-c", "tiny.yaml", "--model.net.node_dim", "16", *last)
    assert "out/checkpoints/last.ckpt: is of another net: 'net.net.type_embedding.linear.weight' has [8, 3]" in said
    assert "of its settings node_dim is 8 there and 16 here" in said
    assert "already holds a run" in complaint(capfd, "-c", "tiny.yaml", "--folder", "out")


def test_a_test_needs_weights(here, capfd):
    assert main(["test", "-c", "tiny.yaml"]) == 1
    assert "'test' needs weights" in capfd.readouterr().err
    assert main(["test", "runs/gone"]) == 1
    assert "is not a run folder" in capfd.readouterr().err
