"""The directed message-passing encoder beside chemprop's: stored numbers, and chemprop itself where there is one.

The stored numbers are of chemprop 2.3.1. Where GEOMLIB_CHEMPROP_PYTHON names an interpreter that has chemprop, that is
asked too. Budget: 3 s without, 30 s with it.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem

from geomlib.data.molecular_features import molecule_structure
from geomlib.models.dmpnn.encoder import BondEncoder

FOLDER = Path(__file__).parent
STORED = json.loads((FOLDER / "chemprop_states.json").read_text())
REQUEST = {
    "smiles": ["C[C@H](N)C(=O)[O-]", "C/C=C\\c1ccncc1", "[13CH4]", "O=S(=O)(Cl)c1ccc(I)cc1", "[NH3][Pt](Cl)Cl"],
    "settings": {
        "default": {"hidden": 5, "depth": 3, "undirected": False},
        "deep": {"hidden": 4, "depth": 5, "undirected": False},
        "undirected": {"hidden": 4, "depth": 3, "undirected": True},
    },
}
PYTHON = os.environ.get("GEOMLIB_CHEMPROP_PYTHON") or (sys.executable if importlib.util.find_spec("chemprop") else None)


@pytest.fixture(scope="module", params=["stored", "live"])
def chemprop(request, tmp_path_factory):
    if request.param == "stored":
        return STORED
    if PYTHON is None:
        pytest.skip("needs chemprop: set GEOMLIB_CHEMPROP_PYTHON to an interpreter that has it")
    file = tmp_path_factory.mktemp("chemprop") / "request.json"
    file.write_text(json.dumps(REQUEST))
    run = subprocess.run(
        [PYTHON, str(FOLDER / "chemprop_side.py"), str(file)], capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def formula(shape, seed):
    count = torch.Size(shape).numel()
    return 0.3 * torch.sin(torch.arange(count, dtype=torch.float64) * 12.9898 + 78.233 * seed).reshape(shape)


def structures():
    return [molecule_structure(Chem.MolFromSmiles(smiles), chirality="tag") for smiles in REQUEST["smiles"]]


def test_features_are_chemprops(chemprop):
    for own, theirs in zip(structures(), chemprop["features"], strict=True):
        edges = np.array(theirs["edge_index"])
        order = np.lexsort(edges)
        np.testing.assert_array_equal(own.edge_index.numpy(), edges[:, order])
        np.testing.assert_allclose(own.node_features.numpy(), theirs["atoms"], rtol=0, atol=1e-6)
        bonds = np.array(theirs["bonds"]).reshape(-1, 14)
        np.testing.assert_array_equal(own.edge_features.numpy(), bonds[order])


@pytest.mark.parametrize("name", REQUEST["settings"])
def test_hidden_states_are_chemprops(chemprop, name):
    setting = REQUEST["settings"][name]
    net = BondEncoder(72, 14, **setting).double()
    with torch.no_grad():
        for seed, value in enumerate((net.input.weight, net.update.weight, net.output.weight, net.output.bias)):
            value.copy_(formula(value.shape, seed))
    states = torch.cat(
        [net(own.node_features.double(), own.edge_features.double(), own.edge_index) for own in structures()]
    )
    theirs = torch.tensor(chemprop["states"][name], dtype=torch.float64)
    assert theirs.abs().max() > 0.5
    torch.testing.assert_close(states, theirs, rtol=0, atol=1e-7)  # chemprop keeps the mass in float32
