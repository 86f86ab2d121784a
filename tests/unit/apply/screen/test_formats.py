"""Files of all kinds into and out of a screening, models in it, and Ray. Budget: 15 s."""

import csv

import numpy as np
import pytest
import torch
from rdkit import Chem

from geomlib.apply.screen import ScreenPlan, screen
from geomlib.apply.screen.ranking import Objective
from geomlib.cli import main
from geomlib.errors import ConfigError, DataError
from geomlib.files.modelfile import save
from geomlib.models import DMPNN

SMILES = ["CCO", "c1ccccc1O", "C(", "CC(=O)Oc1ccccc1C(=O)O", "", "CCCl"]


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def model(folder, name, seed, targets=("a", "b")):
    torch.manual_seed(seed)
    net = DMPNN([{"name": target} for target in targets], hidden=8, depth=2, head_layers=[8]).eval()
    save(net, folder / name)
    return str(folder / name)


def test_parquet_keeps_types(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    values = {
        "smiles": SMILES,
        "count": pyarrow.array([1, None, 3, 4, 5, 6], "int32"),
        "value": [0.1, 1 / 3, None, 4.0, 5.0, 6.0],
        "flag": [True, False, None, True, True, False],
    }
    parquet.write_table(pyarrow.table(values), tmp_path / "in.parquet")
    screen(tmp_path / "in.parquet", tmp_path / "out.parquet", chunk_rows=2)
    table = parquet.read_table(tmp_path / "out.parquet")
    assert [str(kind) for kind in table.schema.types[:4]] == ["string", "int32", "double", "bool"]
    assert table.select(list(values)).to_pydict() == pyarrow.table(values).to_pydict()
    assert str(table.schema.field("MW").type) == "double" and table["MW"].to_pylist()[2] is None
    assert [text.split(":")[0] for text in table["status"].to_pylist()] == [
        "ok",
        "ok",
        "not a molecule",
        "ok",
        "empty SMILES",
        "ok",
    ]
    screen(tmp_path / "in.parquet", tmp_path / "out.csv", chunk_rows=2)
    assert rows_of(tmp_path / "out.csv")[1]["value"] == str(1 / 3)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="no Parquet"):
        screen(tmp_path / "bad.parquet", tmp_path / "out.csv")


def test_sd_files(tmp_path):
    path = tmp_path / "in.sdf"
    with Chem.SDWriter(str(path)) as writer:
        for number, text in enumerate(SMILES[:2]):
            molecule = Chem.MolFromSmiles(text)
            molecule.SetProp("_Name", f"m{number}")
            molecule.SetProp("source", f"shelf {number}")
            writer.write(molecule)
    path.write_text(path.read_text() + "broken\n\nno counts\nM  END\n> <other>\nx\n\n$$$$\n")
    screen(path, tmp_path / "out.csv")
    rows = rows_of(tmp_path / "out.csv")
    assert [row["name"] for row in rows] == ["m0", "m1", "broken"]
    assert [row["smiles"] for row in rows] == ["CCO", "Oc1ccccc1", ""]
    assert rows[1]["source"] == "shelf 1" and rows[2]["other"] == "x"
    assert rows[2]["status"].startswith("not a molecule") and rows[1]["MW"] == "94.113"


@pytest.fixture
def molecules(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("smiles,id\n" + "".join(f"{SMILES[k % 6]},{k}\n" for k in range(24)))
    return path


def test_models_and_committees(tmp_path, molecules):
    from geomlib.apply.predict import Predictor

    first, second, other = (model(tmp_path, f"{k}.safetensors", k, t) for k, t in enumerate(["ab", "ab", "c"]))
    plan = ScreenPlan(
        properties=("MW",),
        models=((first,), (other,), (second,)),
        keep=("MW>50", "a_std>=0", "a<99"),
        objectives=(Objective("c", "max"),),
    )
    result = screen(molecules, tmp_path / "out.csv", plan, chunk_rows=5)
    rows = rows_of(tmp_path / "out.csv")
    assert list(rows[0])[4:11] == ["a", "b", "a_std", "b_std", "c", "pareto_front", "desirability"]
    expected = Predictor([first, second]).predict([SMILES[1]]).values[0]
    np.testing.assert_allclose([float(rows[1][name]) for name in ("a", "b", "a_std", "b_std")], expected, rtol=1e-4)
    assert rows[0]["status"] == "rule: MW>50 (46.069)" and rows[0]["a"] == "" and result.ok == 12
    best = max((float(row["c"]), -int(row["row"])) for row in rows if row["status"] == "ok")
    assert next(row for row in rows if row["rank"] == "1")["row"] == str(-best[1])
    two = screen(molecules, tmp_path / "two.csv", plan, chunk_rows=5, workers=2)
    assert two.output.read_bytes() == (tmp_path / "out.csv").read_bytes()
    clash = model(tmp_path, "clash.safetensors", 3, "ac")
    with pytest.raises(ConfigError, match="several models predict 'a'"):
        screen(molecules, tmp_path / "no.csv", ScreenPlan(models=((first,), (clash,))))
    with pytest.raises(ConfigError, match="objective 'd'"):
        screen(molecules, tmp_path / "no.csv", ScreenPlan(models=((first,),), objectives=(Objective("d", "min"),)))


def test_a_missing_model_is_said_before_the_work(tmp_path, molecules, capsys):
    assert main(["screen", str(molecules), str(tmp_path / "o.csv"), "--model", str(tmp_path / "none.safetensors")]) == 1
    assert "none.safetensors" in capsys.readouterr().err and not (tmp_path / "o.csv.parts").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's own start
def test_ray_gives_the_same_file(tmp_path, molecules):
    pytest.importorskip("ray.data")
    plan = ScreenPlan(objectives=(Objective("logP", "max"),))
    screen(molecules, tmp_path / "local.csv", plan, chunk_rows=5)
    screen(molecules, tmp_path / "ray.csv", plan, chunk_rows=5, workers=1, engine="ray")
    assert (tmp_path / "ray.csv").read_bytes() == (tmp_path / "local.csv").read_bytes()
