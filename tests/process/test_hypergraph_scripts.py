"""The scripts on hypergraphs, on small made-up bibliographies. Budget: 20 s."""

import importlib.util
import json
import re
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml

import geomlib
from geomlib.data.hypergraphs import Hypergraph, read_hyperedges
from geomlib.testing.hypergraphs import coauthors
from geomlib.training import hyperedge_selection
from geomlib.training.hyperedge_settings import HyperedgeSettings, fit_source

SCRIPTS = Path(__file__).parents[2] / "scripts"
QUICK = HyperedgeSettings(features="count+structure", hidden=(16,), members=5, steps=40)


def script(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, SCRIPTS / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def uses():
    return script("hypergraph_uses.py")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    net = fit_source(coauthors(300, seed=1), QUICK)
    return str(geomlib.save(net, tmp_path_factory.mktemp("model") / "model.safetensors"))


def write(hypergraph: Hypergraph, file: Path) -> None:
    rows = [row for row, times in zip(hypergraph, hypergraph.multiplicity, strict=True) for _ in range(times)]
    file.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))


@pytest.fixture
def files(tmp_path):
    """A graph of 400 papers as an edge list, isolated nodes alone on a line, and its hyperedges."""
    true = coauthors(400, seed=2)
    graph = true.project()
    lines = [f"{u} {v}" for u, v in graph.edges.tolist()]
    lines += [str(node) for node in np.flatnonzero(graph.degree == 0).tolist()]
    (tmp_path / "graph.txt").write_text("\n".join(lines) + "\n")
    write(true, tmp_path / "true.txt")
    return tmp_path


def test_uses(uses, model, files, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["hypergraph_uses.py", model, str(files / "graph.txt"), "--truth", str(files / "true.txt")]
    )
    uses.main()
    printed = capsys.readouterr().out
    plain, found = (float(value) for value in re.findall(r"Spearman (-?[\d.]+)", printed))
    assert -1 <= plain < found <= 1, "the hyperedge degree ranks no better than the degree"
    areas = [float(value) for value in re.findall(r"AUC ([\d.]+)", printed)]
    assert len(areas) == 2
    assert min(areas) > 0.7
    assert re.search(r"ring of 6 +atoms 4 5 6 7 8 9", printed)
    assert re.search(r"carboxyl +atoms 10 11 12", printed)
    assert re.search(r"ester +atoms 1 2 3 4", printed)


def test_links_are_hidden_from_the_features(uses, model, monkeypatch):
    """The reconstruction behind the features sees the graph without the links to be found."""
    seen = []
    whole = uses.reconstruct

    def watched(name, graph, **options):
        seen.append(graph)
        return whole(name, graph, **options)

    monkeypatch.setattr(uses, "reconstruct", watched)
    graph = coauthors(200, seed=4).project()
    uses.links(model, graph, seed=0)
    hidden = np.random.default_rng(0).random(len(graph.edges)) < 0.1
    assert [each.edges.tolist() for each in seen] == [graph.edges[~hidden].tolist()]


def test_area_under_the_curve_counts_pairs(uses):
    rng = np.random.default_rng(0)
    score, label = rng.integers(0, 6, 40).astype(float), rng.random(40) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a, b in product(score[label], score[~label])]
    assert uses.auc(score, label) == pytest.approx(np.mean(pairs))


def test_molecule_hypergraph(uses):
    found, names = uses.molecule_hypergraph("c1ccc2ccccc2c1")
    assert [len(row) for row in found] == [6, 6]
    assert names == ["ring of 6", "ring of 6"]
    assert found.num_nodes == 10


def test_settings_are_chosen_and_fit(tmp_path, monkeypatch, capsys):
    """The part of a recipe that the script writes is one that the recipe takes."""
    monkeypatch.chdir(tmp_path)
    few = {name: values[:1] for name, values in hyperedge_selection.GRID.items()}
    few |= {"hidden": ((8,),), "members": (5,), "steps": (4,), "cover": (True,)}
    monkeypatch.setattr(hyperedge_selection, "GRID", few)
    chooser = script("select_hyperedges.py")
    write(coauthors(80, seed=1), tmp_path / "groups.txt")
    monkeypatch.setattr(sys, "argv", ["x", "groups.txt", "chosen.yaml", "--log", "fits.jsonl", "--splits", "1"])
    chooser.main()
    assert "wrote chosen.yaml" in capsys.readouterr().out
    text = (tmp_path / "chosen.yaml").read_text()
    assert "Reconstruct with --cover" in text
    assert yaml.safe_load(text)["trainer"]["max_epochs"] == 4
    assert len((tmp_path / "fits.jsonl").read_text().splitlines()) == 3
    from geomlib.cli import main

    data = [f"--data.{store}.init_args.path=groups.txt" for store in ("store", "val_store")]
    assert main(["fit", "-c", "shyre/one-source", "-c", "chosen.yaml", *data]) == 0
    files = list((tmp_path / "runs").rglob("model.safetensors"))
    net = geomlib.load(files[0])
    assert (net.config["members"], net.config["hidden"], net.budget) == (5, [8], 2 * len(read_hyperedges("groups.txt")))


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    module = script("benchmarks/hypergraphs.py")
    monkeypatch.setattr(module, "SETTINGS", tmp_path / "settings.json")
    for number, half in enumerate(("train", "test")):
        (tmp_path / "papers").mkdir(exist_ok=True)
        write(coauthors(120, seed=10 + number), tmp_path / "papers" / f"{half}.txt")
    chosen = {"papers": {"settings": QUICK.to_dict()}}
    (tmp_path / "settings.json").write_text(json.dumps(chosen))

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["x", str(tmp_path), "--sets", "papers", "--seeds", "0", "1", *options])
        module.main()

    return run


def test_benchmark(benchmark, tmp_path, capsys):
    methods = ["max cliques", "Bayesian-MDL", "SHyRe", "SHyRe, relabelled", "20 % of the query", "with multiplicities"]
    benchmark("--methods", *methods, "--json", str(tmp_path / "table.json"))
    rows = json.loads((tmp_path / "table.json").read_text())
    assert list(rows) == methods
    score = {name: np.mean([each["jaccard"] for each in row["papers"]]) for name, row in rows.items()}
    assert [len(rows[name]["papers"]) for name in methods] == [1, 2, 2, 2, 2, 2]
    assert score["SHyRe"] > score["max cliques"]
    assert abs(score["SHyRe"] - score["SHyRe, relabelled"]) < 0.01
    assert rows["with multiplicities"]["papers"][0]["multi_jaccard"] > rows["max cliques"]["papers"][0]["multi_jaccard"]
    assert "description length" in capsys.readouterr().out
    benchmark("--transfer", "--seeds", "0")
    assert re.search(r"papers +-> papers +[\d.]+ .* distance of rho 0\.0000", capsys.readouterr().out)
    benchmark("--calibration", "--seeds", "0", "--figure", str(tmp_path / "figure.svg"))
    assert re.search(r"ECE 0\.\d+ without, 0\.\d+ with calibration", capsys.readouterr().out)
    assert (tmp_path / "figure.svg").stat().st_size > 1000


def test_selection_reads_no_query(benchmark, tmp_path, monkeypatch):
    (tmp_path / "papers" / "test.txt").unlink()
    few = {name: values[:1] for name, values in hyperedge_selection.GRID.items()}
    monkeypatch.setattr(hyperedge_selection, "GRID", few | {"hidden": ((8,),), "members": (5,), "steps": (4,)})
    benchmark("--select", "--log", str(tmp_path))
    found = json.loads((tmp_path / "settings.json").read_text())["papers"]
    assert found["settings"]["hidden"] == [8]
    assert len(found["halves"]) == 4
    assert list(found["whole"]) == ["2.0"]
    assert len((tmp_path / "papers.jsonl").read_text().splitlines()) == 5
