"""The HTML report, from synthetic run folders and a simulation with EMT."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read

from geomlib.apply.dynamics import Settings, Simulation
from geomlib.apply.past_simulation import PastSimulation
from geomlib.apply.report import write_report
from geomlib.apply.run_folder import read_run
from geomlib.cli import main
from geomlib.errors import ConfigError, FileFormatError
from geomlib.files.modelfile import save
from geomlib.testing.toy import ToyPotential


class Outline(HTMLParser):
    """Headings, text, and whether every tag is closed by its own end."""

    VOID = frozenset({"meta", "link", "br", "img"})

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.words, self.figures, self.ids = [], [], [], 0, []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.figures += tag == "svg"
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a made-up fit on periodic structures of two elements, and a short simulation."""
    folder = tmp_path_factory.mktemp("runs") / "runs" / "dpa3" / "<copper> & co" / "version_0"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    sizes = generator.integers(3, 30, 60)
    atoms = int(sizes.sum())
    energy, forces = -3.5 * sizes + generator.normal(size=60), generator.normal(size=(atoms, 3))
    stress = 0.01 * generator.normal(size=(60, 3, 3))
    numbers = np.where(generator.random(atoms) < 0.3, 79, 29)
    np.savez(
        folder / "predictions.npz",
        sample_id=np.arange(60),
        n_atoms=sizes,
        atomic_number=numbers,
        energy_reference=energy,
        energy_prediction=energy + 0.02 * sizes,
        forces_reference=forces,
        forces_prediction=forces + np.where(numbers == 79, 0.2, 0.1)[:, None],
        stress_reference=np.where(np.arange(60)[:, None, None] < 50, stress, np.nan),
        stress_prediction=stress,
    )
    (folder / "test_metrics.json").write_text(
        json.dumps(
            {
                "graphs": 60,
                "metrics": {"energy_mae": 0.02, "energy_rmse": 0.02, "forces_mae": 0.13, "forces_rmse": 0.15},
                "mean_predictor": {"energy_mae": 0.05, "energy_rmse": 0.06, "forces_mae": 0.8, "forces_rmse": 1.0},
                "units": dict.fromkeys(("energy_mae", "energy_rmse"), "eV/atom")
                | dict.fromkeys(("forces_mae", "forces_rmse"), "eV/Å"),
            }
        ),
        encoding="utf-8",
    )
    lines = ["epoch,lr-AdamW,step,train/forces_mae,train/loss,val/forces_mae,val/loss"]
    for step in range(9, 400, 10):
        lines.append(f",{1e-3 * 0.99**step},{step},,,,")
        lines.append(f"{step // 40},,{step},,{50 / step},,")
        if step % 40 == 39:
            lines.append(f"{step // 40},,{step},{3 / step},,{4 / step},{60 / step}")
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "config.yaml").write_text("model: {net: '<script>alert(1)</script>'}\n", encoding="utf-8")
    origin = {"card": "alloys", "sha256": {"a": "b"}, "split": None, "sizes": {"train": 1000, "val": 50}}
    save(
        ToyPotential(["Cu", "Au"]),
        folder / "model.safetensors",
        licence="CC-BY-4.0 <b>",
        trained_on=origin,
        citation="A. Author, <i>J. Alloys</i>",
    )
    copper = bulk("Cu", cubic=True) * 2
    copper.calc = EMT()
    copper.set_momenta(generator.normal(scale=1.5, size=(32, 3)))
    Simulation(copper, Settings(temperature=600, timestep=2, interval=5), folder / "md" / "nve.extxyz").run(100)
    return folder


def test_whole_report(run):
    file = write_report(run)
    assert file == run / "report.html"
    text = file.read_text(encoding="utf-8")
    page = Outline(text)
    assert page.headings == [
        "dpa3/<copper> & co/version_0",
        "Model",
        "Test errors",
        "Learning curves",
        "Predictions and labels",
        "Error by element",
        "Dynamics: nve.extxyz",
        "Recipe",
    ]
    # loss, force MAE, learning rate; three parities; elements; temperature, energy, one pair
    assert page.figures == 3 + 3 + 1 + 3
    words = " ".join(" ".join(page.words).split())
    for expected in (
        "Forces MAE, test 130 meV/Å mean predictor 800",
        "energy meV/atom 20 50 20 60 88.9 % 20 meV/atom",
        "forces meV/Å 130 800 150 1,000 97.8 % 200 meV/Å",
        "50 structures, 450 components",
        "cutoff of radius edges 4.5 Å",
        "trained on alloys 1,000 train, 50 val",
        "A. Author, <i>J. Alloys</i>",
        "atoms 32 ensemble nve time step 2 fs length 0.2 ps, 100 steps",
        "g(r) is one where atoms are distributed evenly",
    ):
        assert expected in words
    assert len(page.ids) == len(set(page.ids))


def test_element_rows_are_those_of_the_element(run):
    words = " ".join(" ".join(Outline(write_report(run).read_text(encoding="utf-8")).words).split())
    assert re.search(r"Cu [\d,]+ 100 100 ", words)
    assert re.search(r"Au [\d,]+ 200 200 ", words)


def test_page_stands_alone_and_everything_is_escaped(run):
    text = write_report(run).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "CC-BY-4.0 &lt;b&gt;" in text
    assert not re.search(r'(?:src|href)="(?!#|data:)', text)
    assert not re.search(r"#0[12]0[12]0[0-9a-f]", text)  # every colour comes from the style sheet
    for anchor in re.findall(r'href="#([^"]+)"', text):
        assert f'id="{anchor}"' in text


def test_same_run_gives_the_same_figures(run):
    def figures():
        return re.findall(r"<svg.*?</svg>", write_report(run).read_text(encoding="utf-8"), re.DOTALL)

    assert figures() == figures()


@pytest.mark.parametrize(
    ("name", "sentence", "heading"),
    [
        ("metrics.csv", "metrics.csv is missing, so there are no learning curves.", "Learning curves"),
        ("test_metrics.json", "test_metrics.json is missing, so there are no test errors", "Test errors"),
        ("predictions.npz", "predictions.npz is missing, so there is nothing to compare", "Error by element"),
        ("model.safetensors", "model.safetensors is missing, so the facts about the model", "Model"),
        ("config.yaml", "config.yaml is missing, so there is no recipe to show.", "Recipe"),
        ("md", "No simulation lies in the folder", "Dynamics: nve.extxyz"),
    ],
)
def test_missing_parts_are_left_out_and_named(run, tmp_path, name, sentence, heading):
    copy = tmp_path / "version_1"
    copy.mkdir()
    for path in run.iterdir():
        if path.name not in (name, "report.html"):
            (copy / path.name).symlink_to(path)
    page = Outline(write_report(copy).read_text(encoding="utf-8"))
    assert heading not in page.headings
    assert sentence in " ".join(" ".join(page.words).split())


def test_many_numbers_become_an_image(tmp_path):
    """The page of a large test set stays small."""
    generator = np.random.default_rng(0)
    forces = generator.normal(size=(50_000, 3))
    np.savez(
        tmp_path / "predictions.npz",
        sample_id=np.arange(500),
        n_atoms=np.full(500, 100),
        atomic_number=np.full(50_000, 14),
        forces_reference=forces,
        forces_prediction=forces + 0.1 * generator.normal(size=forces.shape),
    )
    file = write_report(tmp_path, tmp_path / "out" / "page.html")
    text = file.read_text(encoding="utf-8")
    assert "data:image/png;base64," in text
    assert len(text) < 150_000


def test_curves_of_a_diverged_run(tmp_path):
    """Losses that are no numbers leave gaps; a page comes out all the same."""
    lines = [
        "epoch,step,train/loss,val/loss,lr-AdamW",
        "0,9,1.0,,1e-3",
        "0,19,nan,,1e-4",
        "0,29,inf,,1e-12",
        "0,29,,nan,",
    ]
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    page = Outline(write_report(tmp_path).read_text(encoding="utf-8"))
    assert page.figures == 2
    assert "1e-12" not in page.words  # the axis of the learning rate ends four decades below its top


def test_virial_stands_in_for_stress(tmp_path):
    virial = np.random.default_rng(0).normal(size=(5, 3, 3))
    arrays = {"sample_id": np.arange(5), "n_atoms": np.full(5, 4), "atomic_number": np.full(20, 8)}
    np.savez(tmp_path / "predictions.npz", **arrays, virial_reference=virial, virial_prediction=virial + 1)
    (row,) = read_run(tmp_path).comparisons
    assert row.name == "virial"
    assert row.prediction - row.label == pytest.approx(0.25)
    assert Outline(write_report(tmp_path).read_text(encoding="utf-8")).figures == 1


def test_simulation_alone_and_from_elsewhere(run, tmp_path):
    trajectory = run / "md" / "nve.extxyz"
    alone = Outline(write_report(trajectory, tmp_path / "md.html").read_text(encoding="utf-8"))
    assert alone.headings == ["nve.extxyz", "Dynamics: nve.extxyz"]
    bare = tmp_path / "bare.extxyz"
    bare.write_text(trajectory.read_text(encoding="utf-8"), encoding="utf-8")
    both = Outline(write_report(run, tmp_path / "both.html", [trajectory, bare]).read_text(encoding="utf-8"))
    assert [row for row in both.headings if "Dynamics" in row] == ["Dynamics: nve.extxyz", "Dynamics: bare.extxyz"]
    assert "bare.extxyz.csv is missing, so there are no temperatures and energies." in " ".join(both.words)
    log = tmp_path / "gone.extxyz.csv"
    log.write_text(Path(f"{trajectory}.csv").read_text(encoding="utf-8"), encoding="utf-8")
    gone = " ".join(Outline(write_report(log, tmp_path / "gone.html").read_text(encoding="utf-8")).words)
    assert "gone.extxyz is missing, so there are no radial distribution functions." in gone


def test_drift_is_the_slope_of_the_total_energy(tmp_path):
    rows = ["step,time_fs,temperature_K,potential_eV,kinetic_eV,total_eV,conserved_eV"]
    rows += [f"{k},{k},300,{-1 + 4e-3 * k / 1000},0,0,{-1 + 4e-3 * k / 1000}" for k in range(0, 1001, 100)]
    (tmp_path / "a.extxyz.csv").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "a.extxyz").write_text("2\n\nH 0 0 0\nH 0 0 1\n", encoding="utf-8")
    words = " ".join(" ".join(Outline(write_report(tmp_path).read_text(encoding="utf-8")).words).split())
    assert "Energy drift, MD +2 meV/atom/ps over 1 ps at 300 K" in words


def test_frames_are_thinned(run):
    simulation = PastSimulation.read(run / "md" / "nve.extxyz")
    assert len(simulation.frames(100)) == 21
    assert len(simulation.frames(10)) == 11
    assert simulation.frames(10)[1].info["step"] == read(run / "md" / "nve.extxyz", index=2).info["step"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.csv", b"epoch,step,val/loss\n0,x,1\n", "metrics.csv: is damaged"),
        ("test_metrics.json", b"{", "test_metrics.json: is damaged"),
        ("predictions.npz", b"PK\x03\x04rest", "predictions.npz: is damaged"),
        ("model.safetensors", b"\x00" * 4, "model.safetensors: is truncated"),
        ("a.extxyz.csv", b"step,time_fs\n1,x\n", "a.extxyz.csv: is no log"),
        ("a.extxyz.csv", b"a,b\n1,2\n", "a.extxyz.csv: is no log of a simulation: it has no records"),
    ],
)
def test_damaged_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileFormatError, match=re.escape(message)):
        write_report(tmp_path)


def test_pickled_predictions_are_refused(tmp_path):
    np.savez(tmp_path / "predictions.npz", n_atoms=np.array([{"a": 1}], dtype=object))
    with pytest.raises(FileFormatError, match=r"predictions\.npz: is damaged"):
        write_report(tmp_path)


def test_nothing_to_report(tmp_path):
    with pytest.raises(ConfigError, match="is no run folder and holds no simulation"):
        write_report(tmp_path)
    with pytest.raises(FileFormatError, match="no such trajectory"):
        write_report(tmp_path / "gone.extxyz")
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    with pytest.raises(FileFormatError, match="is no trajectory"):
        write_report(tmp_path / "notes.txt")


def test_process_state_is_left_alone(run):
    import matplotlib

    before = dict(matplotlib.rcParams), torch.get_default_dtype(), torch.get_num_threads()
    write_report(run)
    assert (dict(matplotlib.rcParams), torch.get_default_dtype(), torch.get_num_threads()) == before


def test_command(run, tmp_path, capsys):
    assert main(["report", str(run), "-o", str(tmp_path / "a.html")]) == 0
    assert capsys.readouterr().out.startswith(f"report: {tmp_path / 'a.html'} (")
    assert main(["report", str(run), "-o", str(tmp_path / "a.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(tmp_path / "a.html")
    assert main(["report", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
