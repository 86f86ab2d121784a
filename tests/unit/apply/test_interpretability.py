"""Surprise of tokens, linear probes, maps, drawings, and the page about all of them. Budget: 25 s."""

import csv
import json
import re
import sys

import numpy as np
import pytest
import torch

from geomlib.apply.embedding_map import embedding_map, principal_components
from geomlib.apply.explain import explain, write_explanation
from geomlib.apply.hidden_states import LayerStates, layer_states
from geomlib.apply.linear_probe import LogisticProbe, RidgeProbe
from geomlib.apply.molecule_drawing import color_of, draw_atoms
from geomlib.apply.predict import Predictor
from geomlib.apply.probes import described, probe_layers
from geomlib.apply.report.interpretability import Coloring, map_plot
from geomlib.apply.surprise import token_surprise
from geomlib.cli import main
from geomlib.data.cards import find_cards
from geomlib.errors import ConfigError, DataError, MissingExtra
from geomlib.files.modelfile import load, save
from geomlib.models import DMPNN, MIST, CombinedNet, MISTProperty

SIZES = {"layers": 2, "width": 16, "heads": 2, "feedforward": 32, "positions": 60}


def molecules(number):
    file = find_cards()["calculated-properties"]
    with (file if file.is_dir() else file.parent).joinpath("table.csv").open() as table:
        return [row["smiles"] for row, _ in zip(csv.DictReader(table), range(number), strict=False)]


def language_model(**arguments):
    torch.manual_seed(0)
    net = MIST(**{**SIZES, **arguments}).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


# -------------------------------------------------------------------- surprise


@pytest.fixture(scope="module")
def trained():
    """A language model of ethers and alcohols, after a few seconds."""
    torch.manual_seed(0)
    net = MIST(layers=2, width=32, heads=4, feedforward=64, positions=40, dropout=0.0, form="as-is")
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3)
    tokenizer = net.spec.builders[0].tokenizer
    for _ in range(70):
        texts = ["C" * a + "O" + "C" * b + "O" * c for a, b, c in torch.randint(1, 5, (24, 3), generator=generator)]
        texts = [text.replace("OO", "O") for text in texts]
        ids, lengths = tokenizer.encode_packed(texts)
        ids, component = torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(np.repeat(np.arange(24), lengths))
        chosen = torch.rand(len(ids), generator=generator) < 0.25
        states = net.encoder(torch.where(chosen, 164, ids), component, 24)
        loss = torch.nn.functional.cross_entropy(net.logits(states[chosen]), ids[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def test_corrupted_molecules_are_surprising(trained):
    good = ["CCCOCC", "CCOCCO", "COCCC"]
    bad = ["CCCOC#N", "FCCOCCO", "COCCBr"]
    found = token_surprise(trained, [*good, *bad])
    assert max(row.mean for row in found[:3]) < 0.7 * min(row.mean for row in found[3:])
    for row, odd in zip(found[3:], ("#N", "F", "Br"), strict=True):
        assert row.tokens[int(row.nats.argmax())] in odd
        assert row.nats.max() > 3 * np.median(row.nats)
    assert found[5].atoms.argmax() == 4 and len(found[5].atoms) == 5


@pytest.mark.parametrize("arguments", [{}, {"template": True}, {"form": "canonical"}])
def test_surprise_is_that_of_each_token_hidden_alone(arguments):
    net = language_model(**arguments)
    row, bad = token_surprise(net, ["Clc1ccccc1O", "C("], max_tokens=30)
    assert "is no molecule" in bad.error
    builder = net.spec.builders[0]
    text = builder.write("Clc1ccccc1O")
    ids = torch.tensor(builder.tokenizer.encode(text))
    first = 1 if builder.template else 0
    assert list(row.tokens) == builder.tokenizer.tokenize(text)
    for place in range(len(row.tokens)):
        hidden = ids.clone()
        hidden[place + first] = 164
        with torch.no_grad():
            states = net.encoder(hidden, torch.zeros(len(ids), dtype=torch.int64), 1)
            chances = net.logits(states[place + first]).log_softmax(-1)
        assert row.nats[place] == pytest.approx(-float(chances[ids[place + first]]), rel=1e-4)
    assert row.mean == pytest.approx(row.nats.mean())


def test_surprise_needs_a_language_model():
    with pytest.raises(ConfigError, match="predicts no tokens"):
        token_surprise(DMPNN(["y"], hidden=4), ["C"])


# -------------------------------------------------------------------- probes


def linear_data(rows=80, width=6):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    x[:, 3] = 2.0  # constant
    y = x @ torch.linspace(-1, 1, width, dtype=torch.float64) + 3 + 0.3 * torch.randn(rows, generator=generator)
    return 5 * x, y


def solved(x, y, penalty):
    """Ridge on standardised columns, by the normal equations."""
    keep = x.std(0, correction=0) > 1e-9
    mean, scale = x[:, keep].mean(0), x[:, keep].std(0, correction=0)
    z = (x[:, keep] - mean) / scale
    weights = torch.linalg.solve(z.T @ z + penalty * len(x) * torch.eye(z.shape[1]).double(), z.T @ (y - y.mean()))
    return lambda new: y.mean() + (new[:, keep] - mean) / scale @ weights


def test_ridge_is_the_solution_of_the_normal_equations():
    x, y = linear_data()
    new = linear_data(20)[0]
    probe = RidgeProbe(x)
    torch.testing.assert_close(probe.predict(y, new), solved(x, y, probe.penalty(y))(new))
    noise = torch.randn(80, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert probe.penalty(noise) > 10 * probe.penalty(y)


def test_penalty_has_the_smallest_leave_one_out_error(monkeypatch):
    """With the standardisation of all rows, as the closed form has it."""
    x, y = linear_data(30)
    y = y + 3 * torch.randn(30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    penalties = (1e-4, 1e-2, 0.1, 1.0, 10.0)
    monkeypatch.setattr("geomlib.apply.linear_probe._PENALTIES", penalties)
    keep = [0, 1, 2, 4, 5]
    z = (x[:, keep] - x[:, keep].mean(0)) / x[:, keep].std(0, correction=0)
    errors = []
    for penalty in penalties:
        error = 0.0
        for k in range(30):
            rest = torch.arange(30) != k
            ones = torch.cat([z[rest], torch.ones(29, 1)], 1).double()
            ridge = torch.eye(6).double() * penalty * 30
            ridge[-1, -1] = 0.0
            weights = torch.linalg.solve(ones.T @ ones + ridge, ones.T @ y[rest])
            error += float((y[k] - z[k] @ weights[:-1] - weights[-1]) ** 2)
        errors.append(error)
    assert RidgeProbe(x).penalty(y) == penalties[int(np.argmin(errors))]


def test_logistic_probe_is_at_the_minimum():
    x, y = linear_data()
    labels = (y > y.median()).double()
    probe = LogisticProbe(x)
    logits = probe.predict(labels, x, penalty=0.01)
    z = probe.rows[:, [0, 1, 2, 4, 5]]  # without the constant column, so that the weights follow from the logits
    weights = torch.linalg.solve(z.T @ z, z.T @ (logits - logits.mean()))
    slope = z.T @ (logits.sigmoid() - labels) + 0.01 * len(labels) * weights
    assert float(slope.abs().max()) < 1e-5
    assert abs(float((logits.sigmoid() - labels).sum())) < 1e-6
    assert probe.penalty(labels) < 1.0
    separable = probe.predict((x[:, 0] > 0).double(), x)  # no finite minimum without the penalty
    assert bool(torch.isfinite(separable).all())


def test_probes_find_the_layer_that_knows():
    rows = molecules(200)
    values = described(rows, ["TPSA"])["TPSA"]
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((200, 8))
    known = np.concatenate([noise, values[:, None] + 0.1 * rng.standard_normal((200, 1))], axis=1)
    states = LayerStates({"noise": noise, "known": known}, [None] * 200)
    ring = np.where(np.arange(200) % 7 == 0, np.nan, (values > np.median(values)).astype(float))
    regression, binary = probe_layers(states, rows, {"tpsa": values, "large": ring}, shuffles=20, draws=50)
    assert (regression.kind, binary.kind) == ("regression", "binary")
    assert regression.train + regression.test == 200 and binary.train + binary.test == int(np.isfinite(ring).sum())
    for probe, best, chance in ((regression, 0.99, 0.1), (binary, 0.98, 0.75)):
        poor, good = probe.layers
        assert good.score.value > best and good.score.low <= good.score.value <= good.score.high
        assert poor.score.value < chance and good.control < chance
    with pytest.raises(DataError, match="expected 20 of each at least"):
        probe_layers(LayerStates({"noise": noise[:30]}, [None] * 30), rows[:30], {"tpsa": values[:30]})


def test_states_of_every_layer():
    rows = ["CCO", "C(", "c1ccccc1O"]
    net = language_model(pool="mean")
    found = layer_states(net, rows)
    assert list(found.layers) == ["embedding", "block 1", "block 2", "output"] and found.errors[1] is not None
    assert np.isnan(found.layers["block 1"][1]).all() and np.isfinite(found.last[[0, 2]]).all()
    property_net = MISTProperty(["y"], **SIZES).eval()
    np.testing.assert_allclose(layer_states(property_net, rows).last, Predictor(property_net).embed(rows).values)
    graph = DMPNN(["y"], hidden=6).eval()
    found = layer_states(graph, rows)
    assert list(found.layers) == ["atoms", "embedding"]
    np.testing.assert_allclose(found.last, Predictor(graph).embed(rows).values)
    both = CombinedNet(["y"], {"t": {"family": "mist-property", **SIZES}, "g": {"family": "dmpnn", "hidden": 6}}).eval()
    assert list(layer_states(both, rows).layers)[-4:] == ["t: output", "g: atoms", "g: embedding", "embedding"]


# -------------------------------------------------------------------- map


def test_principal_components():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 4)) * [5.0, 2.0, 0.5, 0.1] + 7.0
    scores, shares = principal_components(x)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    np.testing.assert_allclose(shares, values[::-1][:2] / values.sum())
    for k in range(2):
        vector = vectors[:, -1 - k] * np.sign(vectors[np.abs(vectors[:, -1 - k]).argmax(), -1 - k])
        np.testing.assert_allclose(scores[:, k], (x - x.mean(0)) @ vector, atol=1e-9)
    np.testing.assert_allclose(principal_components(x[:, :1])[0][:, 1], 0.0)


def test_map_of_molecules(monkeypatch):
    rows = [*molecules(40), "C("]
    found = embedding_map(language_model(positions=160), rows)
    assert len(found.rows) == 40 and found.axes[0].startswith("PC 1 (")
    values = np.arange(40.0)
    values[3] = np.nan
    for coloring in (None, Coloring("size", values), Coloring("kind", [*"ab" * 18, "", "c", "d", "e"])):
        svg = map_plot(found, coloring)
        titles = re.findall(r"<title>([^<]*)</title>", svg)
        assert len(titles) == 40 and rows[0] in titles[0].replace("&amp;", "&")
        assert coloring is None or f"{coloring.name} " in titles[0]
    places = np.array([[float(v) for v in pair] for pair in re.findall(r'<circle cx="([-\d.]+)" cy="([-\d.]+)"', svg)])
    width, height = (float(value) for value in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    assert (places > 0).all() and (places < [width, height]).all()
    order = np.argsort(found.xy[:, 0])
    assert (np.diff(places[order, 0]) >= -0.11).all()  # right is right, and up is up
    assert (np.diff(places[np.argsort(found.xy[:, 1]), 1]) <= 0.11).all()
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingExtra, match=r"a UMAP map needs the package 'umap-learn': pip install 'geomlib\[maps\]'"):
        embedding_map(language_model(positions=160), rows, "umap")
    with pytest.raises(ConfigError, match="map 'tsne': choose from pca, umap"):
        embedding_map(language_model(positions=160), rows, "tsne")
    with pytest.raises(DataError, match="a map of 2 molecules"):
        embedding_map(language_model(), ["C", "CC"])


def test_umap_where_it_is_installed():
    pytest.importorskip("umap", reason="needs umap-learn (extra maps)")
    rows = molecules(40)
    first, again = (embedding_map(language_model(positions=160), rows, "umap", seed=1) for _ in range(2))
    np.testing.assert_allclose(first.xy, again.xy)


# -------------------------------------------------------------------- drawing and page


def test_colours():
    assert color_of(0.0, 1.0) == (1.0, 1.0, 1.0)
    above, below = color_of(1.0, 1.0), color_of(-1.0, 1.0)
    assert above[0] > above[2] and below[2] > below[0]
    assert color_of(5.0, 1.0) == above and color_of(1.0, 0.0) == (1.0, 1.0, 1.0)


def test_atoms_are_drawn_with_their_colours():
    svg = draw_atoms("CCO", [1.0, 0.0, -1.0], title='<a "title">')
    assert svg.startswith("<svg ") and svg.endswith("</svg>") and 'aria-label="&lt;a &quot;title&quot;&gt;"' in svg
    colors = {"".join(f"{round(255 * part):02X}" for part in color_of(value, 1.0)) for value in (1.0, -1.0)}
    ellipses = re.findall(r"<ellipse[^>]*atom-(\d)[^>]*fill:#(\w{6})", svg)
    found = dict(ellipses)
    assert set(found) == {"0", "2"}
    assert all(any(abs(int(found[k], 16) - int(color, 16)) < 0x020202 for color in colors) for k in found)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    net = MISTProperty(["logp", {"name": "toxic", "kind": "binary"}], **{**SIZES, "positions": 160})
    save(net, folder / "property.safetensors")
    save(language_model(positions=160), folder / "language.safetensors")
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["smiles", "size", "kind"])
        writer.writerows([text, len(text), "ab"[k % 2]] for k, text in enumerate(molecules(90)))
    return folder


def test_command_for_a_model_of_properties(files, tmp_path, capsys):
    words = ["explain", str(files / "property.safetensors"), str(files / "table.csv"), "-o", str(tmp_path), "--json"]
    more = ["--molecules", "3", "--properties", "size", "TPSA", "--color", "kind", "--target", "toxic", "logp"]
    assert main([*words, *more]) == 0
    answer = json.loads(capsys.readouterr().out)
    names = ["explain.html", "atoms.csv", "probes.csv", "map.csv", "map.svg"]
    assert [file.rpartition("/")[2] for file in answer["files"]] == names and answer["molecules"] == 90
    page = (tmp_path / "explain.html").read_text()
    assert "<script" not in page and page.count("<h2") == 4
    assert "Contributions to toxic, log-odds." in page and "table.csv" in page
    with (tmp_path / "atoms.csv").open() as file:
        rows = list(csv.DictReader(file))
    first = [row for row in rows if row["target"] == "logp" and row["smiles"] == molecules(1)[0]]
    total = sum(float(row["contribution"]) for row in first)
    assert len({row["smiles"] for row in rows}) == 3
    # branches, which are on no atom, make up the rest
    assert abs(total) > 0 and float(first[0]["value"]) != float(first[0]["baseline"])
    with (tmp_path / "map.csv").open() as file:
        mapped = list(csv.DictReader(file))
    assert [row["kind"] for row in mapped[:2]] == ["a", "b"] and len(mapped) == 90
    assert "var(--" not in (tmp_path / "map.svg").read_text() and "xmlns=" in (tmp_path / "map.svg").read_text()
    with (tmp_path / "probes.csv").open() as file:
        assert {row["property"] for row in csv.DictReader(file)} == {"size", "TPSA"}


def test_command_for_a_language_model(files, tmp_path, capsys):
    model = str(files / "language.safetensors")
    assert main(["explain", model, "CCO", "C(", "CC<script>", "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "There are no probes of the layers" in out and "There is no map of embeddings" in out
    assert "2 molecules could not be used; row 1: 'C(' is no molecule" in out
    page = (tmp_path / "explain.html").read_text()
    assert "Surprise of tokens" in page and "<script" not in page
    with (tmp_path / "tokens.csv").open() as file:
        assert [row["token"] for row in csv.DictReader(file)] == ["C", "C", "O"]


def test_command_complains(files, tmp_path, capsys):
    model, table = str(files / "property.safetensors"), str(files / "table.csv")
    for words, message in (
        (["--parts", "shap"], "part 'shap': choose from attribution, surprise, probes, map"),
        (["--parts", "surprise"], "nothing could be explained: the model has none of the parts"),
        (["--properties", "kind"], "--properties kind: column 'kind' holds words; expected numbers"),
        (["--properties", "Weight"], "descriptor 'Weight' is unknown"),
        (["--molecules", "0"], "expected at least 1"),
        (["--method", "shap"], "expected one of integrated, gradient, occlusion"),
    ):
        assert main(["explain", model, table, "-o", str(tmp_path / "out"), *words]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_committee_from_python(tmp_path):
    net = MISTProperty(["y"], **SIZES)
    found = explain(net, ["CCO", "CCN", "CCC"], ["attribution", "map"], molecules=2)
    assert len(found.attributions["y"]) == 2 and found.coloring.name == "MolLogP" and not found.probes
    assert write_explanation(found, tmp_path / "a/b", "t")[0].name == "explain.html"


@pytest.fixture
def run(files, tmp_path):
    """What the test of a run leaves."""
    rows, net = molecules(90), load(files / "property.safetensors")
    numbers = np.arange(0, 90, 2)
    values = Predictor(net).predict([rows[k] for k in numbers]).values
    labels = np.stack([values[:, 0] + 0.1, (np.arange(45) % 2).astype(float)], axis=1)
    arrays = {"sample_id": numbers, "n_atoms": np.zeros(45, dtype=np.int64)}
    np.savez(tmp_path / "predictions.npz", **arrays, target_prediction=values, target_reference=labels)
    targets = [row.to_dict() for row in net.targets]
    metrics = {"graphs": 45, "metrics": {}, "mean_predictor": {}, "units": {}, "targets": targets}
    (tmp_path / "test_metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "model.safetensors").write_bytes((files / "property.safetensors").read_bytes())
    store = {"class_path": "geomlib.data.TableStore", "init_args": {"path": str(files / "table.csv")}}
    recipe = {"data": {"class_path": "geomlib.data.GraphDataModule", "init_args": {"store": store}}}
    (tmp_path / "config.yaml").write_text(json.dumps(recipe))
    return tmp_path


def test_report_of_a_run(run, capsys):
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "Atoms: logp" in page and "Map of embeddings" in page and "<script" not in page
    assert page.count('class="paper"') == 6 and "There are no probes of the layers" in page
    assert main(["report", str(run), "--no-explain"]) == 0
    assert "Map of embeddings" not in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("table.csv", "other.csv"), "can&#x27;t be read"),
        (("TableStore", "PickleStore"), "the data of the run are no table of molecules (PickleStore)"),
        (("table.csv", "shifted.csv"), "model or data have changed"),
    ],
)
def test_report_says_why_nothing_is_explained(run, files, change, message):
    lines = (files / "table.csv").read_text().splitlines()
    (files / "shifted.csv").write_text("\n".join([lines[0], *lines[2:], lines[1]]))
    file = run / "config.yaml"
    file.write_text(file.read_text().replace(*change))
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "What the model looks at can" in page and message in page and "Map of embeddings" not in page
