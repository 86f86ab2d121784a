"""Screening: every row comes out, whatever is in it; rules, alerts, ranking, workers and formats. Budget: 20 s."""

import csv
import gzip
import json
import subprocess
import sys

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import Descriptors

from geomlib.apply.screen import ScreenPlan, screen
from geomlib.apply.screen.lines import cells_of, lines_of
from geomlib.apply.screen.page import write_screen_page
from geomlib.apply.screen.ranking import Objective, desirability, pareto_fronts, parse_objective, ranks
from geomlib.apply.screen.reading import MoleculeFile
from geomlib.apply.screen.rules import PRESETS, parse_rule, preset
from geomlib.cli import main
from geomlib.errors import ConfigError, DataError

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
BAD = (
    b"id,smiles,note\r\n"
    b"a,CCO,fine\r\n"
    b'a,CCN,"a, b ""quoted""\nover two lines"\r\n'  # an id that occurs twice
    b"c,C1CC,open ring\r\n"
    b"d,,no smiles\r\n"
    b"\r\n"
    b"e,[Na+].CC(=O)[O-],two fragments\r\n"
    b"f," + b"C" * 10_000 + b",long\r\n"
    b"g,CC\xff,not UTF-8\r\n"
    b"h,CCC,caf\xe9\r\n"
    b"i,CCCC\r\n"
    b"j,CCCC,one,more\r\n"
    b'k,"CCCCC,never closed\r\n'
    b"l,C(C)(C)(C)(C)C,valence\r\n"
    b"m,c1ccccc1,last"
)


def rows_of(path):
    with (
        gzip.open(path, "rt", encoding="utf-8", newline="")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8", newline="") as file
    ):
        return list(csv.DictReader(file))


@pytest.fixture
def molecules(tmp_path):
    """Forty rows, a few of them bad."""
    path = tmp_path / "in.csv"
    names = ["CCO", "c1ccccc1O", "CC(=O)Nc1ccc(O)cc1", "C(", "CCCCCCCC", ASPIRIN, "OC(=O)CC(O)(CC(=O)O)C(=O)O", ""]
    path.write_text("smiles,id\n" + "".join(f"{names[k % 8]},{k}\n" for k in range(40)))
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_every_row_is_accounted_for(tmp_path, packed):
    path = tmp_path / ("in.csv.gz" if packed else "in.csv")
    path.write_bytes(gzip.compress(BAD) if packed else BAD)
    result = screen(path, tmp_path / "out.csv", chunk_rows=4)
    rows = rows_of(tmp_path / "out.csv")
    assert [row["row"] for row in rows] == [str(k) for k in range(1, 15)] and result.rows == 14
    status = {f"{row['id']}{row['row']}": row["status"] for row in rows}
    assert {key for key, text in status.items() if text == "ok"} == {"a1", "a2", "e6", "h9", "m14"}
    begins = {"c3": "not a molecule", "d4": "empty SMILES", "5": "empty row", "f7": "too long: 10000"}
    begins |= {"g8": "not a molecule", "i10": "unreadable: 2 cells", "j11": "unreadable: 4 cells", "l13": "not a mol"}
    begins |= {'k,"CCCCC,never closed12': "unreadable: quotes"}
    for key, text in begins.items():
        assert status[key].startswith(text), (key, status[key])
    assert status["l13"].startswith("not a molecule: Explicit valence for atom # 0 C, 5")
    assert rows[1]["note"] == 'a, b "quoted"\nover two lines' and rows[8]["note"] == "caf\\xe9"
    assert rows[10]["note"] == "one,more" and rows[0]["note"] == "fine"
    assert float(rows[0]["MW"]) == pytest.approx(Descriptors.MolWt(Chem.MolFromSmiles("CCO")), rel=1e-5)
    assert result.ok + sum(result.reasons.values()) == 14
    assert not (tmp_path / "out.csv.parts").exists()


def test_what_csv_readers_trip_over(tmp_path):
    long = "x" * 200_000
    (tmp_path / "in.csv").write_bytes(f'smiles,note\nCCO,a\rb\nCCN,{long}\nCCC,"{long}"\nCC\0C,nul\n'.encode())
    result = screen(tmp_path / "in.csv", tmp_path / "out.csv", ScreenPlan(objectives=(Objective("MW", "max"),)))
    rows = cells_of((tmp_path / "out.csv").read_bytes().decode())[1:]
    assert [row[:3] for row in rows] == [
        ["CCO", "a\rb", "1"],
        ["CCN", long, "2"],
        ["CCC", long, "3"],
        ["CC\0C", "nul", "4"],
    ]
    assert [row[-1].split(":")[0] for row in rows] == ["ok", "ok", "ok", "not a molecule"] and result.ok == 3
    assert csv.field_size_limit() == 131_072


def test_lines_come_back_as_they_were():
    rows = [["a", "", 'q"', "c,d"], ["\r", "\n", "\r\n", " x "], ["", "", "", ""]]
    assert cells_of(lines_of(rows)) == rows and lines_of(rows[:1]) == 'a,,"q""","c,d"\n'


def test_trouble_of_one_row_is_not_that_of_others(tmp_path, monkeypatch):
    def fails(molecule):
        if molecule.GetNumAtoms() == 1:
            raise RuntimeError("Pre-condition Violation\n\tin ring info")
        return 1.0

    monkeypatch.setattr("geomlib.apply.screen.chunk.property_function", lambda name: fails)
    (tmp_path / "in.smi").write_text("CC\nC\nCCC\n")
    result = screen(tmp_path / "in.smi", tmp_path / "out.csv", ScreenPlan(properties=("QED",)))
    rows = rows_of(tmp_path / "out.csv")
    assert [row["status"] for row in rows] == ["ok", "can't be calculated: Pre-condition Violation in ring info", "ok"]
    assert result.funnel() == [("rows", 3), ("calculated", 2)]


def test_no_torch_without_models():
    code = "import sys, geomlib.apply.screen.engine, geomlib.apply.screen; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_long_smiles_can_be_allowed(tmp_path):
    (tmp_path / "in.smi").write_text("C" * 10_000 + " long\n\nCC two\n")
    screen(tmp_path / "in.smi", tmp_path / "out.csv", ScreenPlan(max_length=20_000))
    rows = rows_of(tmp_path / "out.csv")
    assert [row["status"] for row in rows] == ["ok", "empty row", "ok"] and [row["name"] for row in rows] == [
        "long",
        "",
        "two",
    ]


def test_damaged_files_and_columns_have_one_line(tmp_path):
    (tmp_path / "in.csv.gz").write_bytes(gzip.compress(BAD)[:-20])
    with pytest.raises(DataError, match="cut off"):
        screen(tmp_path / "in.csv.gz", tmp_path / "out.csv")
    (tmp_path / "in.csv").write_text("smile,id\nC,1\n")
    with pytest.raises(ConfigError, match=r"no column 'smiles' \(did you mean 'smile'\?\)"):
        MoleculeFile(tmp_path / "in.csv")
    assert MoleculeFile(tmp_path / "in.csv", "smile").smiles_index == 0
    with pytest.raises(ConfigError, match="is the input"):
        screen(tmp_path / "in.csv", tmp_path / "in.csv", smiles="smile")


def test_names_of_the_input_are_kept(tmp_path):
    (tmp_path / "in.csv").write_text("status,SMILES,MW\nold,CCO,7\n")
    screen(tmp_path / "in.csv", tmp_path / "out.csv")
    (row,) = rows_of(tmp_path / "out.csv")
    assert (row["status"], row["MW"], row["screen_status"], row["screen_MW"]) == ("old", "7", "ok", "46.069")


def test_standardisation(tmp_path):
    (tmp_path / "in.smi").write_text("[Na+].CC(=O)[O-]\nOC1=CC=CC=N1\nCC[NH3+].[Cl-]\n")
    plan = ScreenPlan(standardize=("tautomer", "uncharge", "fragment"), properties=("charge", "fragments"))
    screen(tmp_path / "in.smi", tmp_path / "out.csv", plan)
    rows = rows_of(tmp_path / "out.csv")
    assert [row["standard_smiles"] for row in rows] == ["CC(=O)O", "O=c1cccc[nH]1", "CCN"]
    assert {(row["charge"], row["fragments"]) for row in rows} == {("0", "1")}


def test_rules_substructures_alerts_and_similarity(tmp_path):
    smiles = {"CCO": "ok", "CCBr": "rule: elements in C,H,N,O (Br)", "C" * 30: "rule: MW<=300 (422.826)"}
    smiles |= {"CCN": "substructure: without [OX2]", "COC=O": "substructure: with C=O"}
    smiles |= {"OCC1=CC(=O)C=CC1=O": "substructure: with C=O", "OOCC": "alert: Brenk peroxide"}
    smiles |= {"OCCCCCC#N": "rule: similarity>0.1 (0.0526316)"}
    (tmp_path / "in.smi").write_text("\n".join(smiles))
    plan = ScreenPlan(
        keep=("MW<=300", "elements in C,H,N,O", "similarity>0.1"),
        include=("[OX2]",),
        exclude=("C=O",),
        alerts=("brenk",),
        references=("OCC", "c1ccccc1"),
    )
    result = screen(tmp_path / "in.smi", tmp_path / "out.csv", plan)
    rows = rows_of(tmp_path / "out.csv")
    found = {row["smiles"]: row["status"] for row in rows}
    assert {key: text for key, text in found.items() if not text.startswith(("rule: sim", "alert"))} == {
        key: text for key, text in smiles.items() if not text.startswith(("rule: sim", "alert"))
    }
    assert found["OCCCCCC#N"].startswith(("rule: similarity>0.1 (", "alert")) and found["OOCC"] != "ok"
    assert rows[0]["similarity"] == "1" and rows[0]["most_similar"] == "OCC" and rows[1]["similarity"] == ""
    assert result.funnel()[-1][1] == result.ok


def test_presets_count_violations():
    values = {"MW": 900.0, "logP": 1.0, "HBD": 1.0, "HBA": 1.0, "rotatable_bonds": 1.0, "TPSA": 150.0}
    assert not PRESETS["lipinski"].broken(values)
    assert len(PRESETS["lipinski"].broken({**values, "logP": 9.0})) == 2
    assert [rule.text for rule in preset("veber").broken(values)] == ["TPSA<=140"]
    with pytest.raises(ConfigError, match="did you mean 'veber'"):
        preset("verber")


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("MW<=5", [5, -9], [5.1]),
        ("MW < 5", [4.9], [5]),
        ("-0.4 <= logP < 5.6", [-0.4, 5.5], [-0.5, 5.6]),
        ("3 > x", [2], [3]),
        ("x=2", [2], [1.9, 2.1]),
        ("1e1<=x", [10], [9, float("nan")]),
    ],
)
def test_rules_are_intervals(text, inside, outside):
    rule = parse_rule(text)
    assert all(rule.holds(value) for value in inside) and not any(rule.holds(value) for value in outside)


@pytest.mark.parametrize("text", ["", "MW", "MW<=x", "__import__('os')", "5<x<5", "MW<=5 and logP<2", "elements in c"])
def test_other_text_is_no_rule(text):
    with pytest.raises(ConfigError, match="rule"):
        parse_rule(text)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_fronts_are_those_of_the_definition(width):
    costs = np.random.default_rng(width).integers(0, 8, (120, width)).astype(float)
    dominated = (costs[:, None] <= costs).all(-1) & (costs[:, None] < costs).any(-1)  # [by, of]
    expected, left = np.zeros(120, dtype=int), np.ones(120, dtype=bool)
    front = 0
    while left.any():
        front += 1
        now = left & ~dominated[left].any(0)
        expected[now] = front
        left &= ~now
    assert (pareto_fronts(costs) == expected).all() and expected.max() > 3


def test_desirability_and_ranks():
    wishes = [parse_objective("max a 0 10"), parse_objective("in b 1 3 weight 3"), Objective("c", "min")]
    columns = [np.array([5.0, 20.0]), np.array([2.0, 4.0]), np.array([0.0, 0.0])]
    np.testing.assert_allclose(desirability(wishes, columns), [0.5**0.2, 0.5**0.6])
    assert ranks(np.array([2, 1, 1]), np.array([0.9, 0.1, 0.5])).tolist() == [3, 2, 1]
    for text in ("max", "up a", "in a", "max a 3 1", "max a x y", "max a weight -1"):
        with pytest.raises(ConfigError, match="objective"):
            parse_objective(text)


def test_ranking_top_and_diverse(tmp_path, molecules):
    plan = ScreenPlan(objectives=(Objective("logP", "max"), Objective("TPSA", "min")), top=3, diverse=4)
    result = screen(molecules, tmp_path / "out.csv", plan, chunk_rows=7)
    rows = rows_of(tmp_path / "out.csv")
    ranked = sorted((row for row in rows if row["rank"]), key=lambda row: int(row["rank"]))
    assert [row["rank"] for row in ranked] == [str(k) for k in range(1, 31)] and result.ok == 30
    assert {row["smiles"] for row in ranked[:5]} == {"CCCCCCCC"} and ranked[0]["pareto_front"] == "1"
    assert [row["row"] for row in rows_of(result.best)] == [row["row"] for row in ranked[:3]]
    picked = {row["diverse"]: row["smiles"] for row in rows if row["diverse"]}
    assert set(picked) == set("1234") and len(set(picked.values())) == 4 and picked["1"] == "CCCCCCCC"
    page = write_screen_page(result, tmp_path / "page.html").read_text()
    assert "Pareto front" in page and "Best molecules" in page and "empty SMILES" in page
    assert "logP (max); TPSA (min)" in page and str(molecules) in page and page.count("class='legend'") >= 3


def test_interrupted_screening_goes_on(tmp_path, molecules):
    screen(molecules, tmp_path / "straight.csv", chunk_rows=7)
    seen = []

    def stop(rows):
        seen.append(rows)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        screen(molecules, tmp_path / "out.csv", chunk_rows=7, progress=stop)
    parts = tmp_path / "out.csv.parts"
    assert len(list(parts.glob("chunk-*"))) == 3 and not (tmp_path / "out.csv").exists()
    with pytest.raises(ConfigError, match="differs in plan"):
        screen(molecules, tmp_path / "out.csv", ScreenPlan(alerts=("NIH",)), chunk_rows=7)
    before = (parts / "chunk-00000001.txt").stat().st_mtime_ns
    times = []
    screen(
        molecules,
        tmp_path / "out.csv",
        chunk_rows=7,
        progress=lambda rows: times.append((parts / "chunk-00000001.txt").stat().st_mtime_ns),
    )
    assert set(times) == {before}
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "straight.csv").read_bytes()


def test_workers_give_the_same_file(tmp_path, molecules):
    plan = ScreenPlan(objectives=(Objective("logP", "max"),))
    one, two = (tmp_path / f"{count}.csv.gz" for count in (1, 2))
    screen(molecules, one, plan, chunk_rows=3, workers=1)
    screen(molecules, two, plan, chunk_rows=3, workers=2)
    assert one.read_bytes() == two.read_bytes()


def test_command(tmp_path, molecules, capsys):
    out = tmp_path / "o.csv"
    words = ["screen", str(molecules), str(out), "--keep", "MW<=150", "--json", "--report", str(tmp_path / "r.html")]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 40 and found["ok"] == 10 + 5 and found["reasons"]["rule: MW<=150"] == 15
    assert main(["screen", str(molecules), str(out), "--keep", "MV<=150"]) == 1
    assert "did you mean 'MW'" in capsys.readouterr().err
