"""The script that makes texts for pretraining from files of SMILES and tables that nets are tested on."""

import gzip
import runpy
import sys
from pathlib import Path

from geomlib.data.text_stream import Exclusions

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmarks" / "mist_corpus.py"


def test_texts_and_what_must_not_be_trained_on(tmp_path, monkeypatch, capsys):
    lines = ["C" * n + end for n in range(1, 101) for end in ("O", "N")]
    with gzip.open(tmp_path / "text.smi.gz", "wt") as file:
        file.write("\n".join(lines))
    with gzip.open(tmp_path / "table.csv.gz", "wt") as file:
        file.write("SMILES_0,smi2,y\nOCC,,1\nCCN.Cl,c1ccccc1,0\nnone,,0\n")
    words = [tmp_path / "out", "--text", tmp_path / "text.smi.gz", "--tables", tmp_path / "table.csv.gz"]
    monkeypatch.setattr(sys, "argv", ["mist_corpus.py", *map(str, words)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    train, val = ((tmp_path / "out/zinc_smiles" / f"{part}.smi").read_text().split() for part in ("train", "val"))
    assert sorted(train + val) == sorted(lines) and 0 < len(val) < 12
    excluded = Exclusions(tmp_path / "out" / "downstream.smi")
    assert len(excluded) == 4
    assert all(text in excluded for text in ("CCO", "CCN.Cl", "CCN", "c1ccccc1"))
    assert f"val.smi: {len(val)} molecules" in capsys.readouterr().out
