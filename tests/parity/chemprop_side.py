"""What chemprop itself gives; run by the interpreter that has it: `python chemprop_side.py REQUEST.json`.

The request names SMILES and settings of encoders; weights are a formula, so that nobody has to store them. Prints JSON:
features of the atoms and bonds of each molecule, and for each setting the hidden states of its atoms.
"""

import json
import sys
from pathlib import Path

import torch
from chemprop.data import BatchMolGraph
from chemprop.featurizers import SimpleMoleculeMolGraphFeaturizer
from chemprop.nn import BondMessagePassing
from rdkit import Chem


def formula(shape, seed):
    """Numbers in ±0.3 that look random."""
    count = torch.Size(shape).numel()
    return 0.3 * torch.sin(torch.arange(count, dtype=torch.float64) * 12.9898 + 78.233 * seed).reshape(shape)


request = json.loads(Path(sys.argv[1]).read_text())
graphs = [SimpleMoleculeMolGraphFeaturizer()(Chem.MolFromSmiles(smiles)) for smiles in request["smiles"]]
answer = {
    "features": [
        {"atoms": graph.V.tolist(), "bonds": graph.E.tolist(), "edge_index": graph.edge_index.tolist()}
        for graph in graphs
    ],
    "states": {},
}
for name, setting in request["settings"].items():
    net = BondMessagePassing(d_h=setting["hidden"], depth=setting["depth"], undirected=setting["undirected"]).double()
    net.eval()
    with torch.no_grad():
        for seed, value in enumerate((net.W_i.weight, net.W_h.weight, net.W_o.weight, net.W_o.bias)):
            value.copy_(formula(value.shape, seed))
        batch = BatchMolGraph(graphs)
        batch.V, batch.E = batch.V.double(), batch.E.double()
        answer["states"][name] = net(batch).tolist()
print(json.dumps(answer))
