"""What deepmd-kit itself says about models; run by the interpreter that has it: `python deepmd_side.py FOLDER`.

For each `NAME.json` (a model section) it makes a model, whose residual and bias vectors it draws too, and writes
`NAME.dp`; for each `NAME.dp` it writes energies, forces and virials of `NAME.npz` to `NAME.out.npz`.
"""

import json
import sys
from pathlib import Path

import deepmd.pt  # noqa: F401 - registers its models
import numpy as np
import torch
from deepmd.dpmodel.utils.serialization import load_dp_model, save_dp_model
from deepmd.pt.model.model import get_model
from deepmd.pt.model.model.model import BaseModel


def make(section, file):
    torch.manual_seed(1)
    model = get_model(json.loads(json.dumps(section)))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "residual" in name:
                value.add_(0.3 * torch.randn_like(value))
        model.atomic_model.out_bias.copy_(torch.randn_like(model.atomic_model.out_bias))
        fitting = model.atomic_model.fitting_net
        for name in ("fparam_avg", "fparam_inv_std", "aparam_avg", "aparam_inv_std", "case_embd"):
            if getattr(fitting, name, None) is not None:
                getattr(fitting, name).copy_(torch.rand_like(getattr(fitting, name)))
    save_dp_model(str(file), {"model": model.serialize(), "model_def_script": section, "backend": "PyTorch"})


def evaluate(file):
    model = BaseModel.deserialize(load_dp_model(str(file))["model"]).eval()
    with np.load(file.with_suffix(".npz"), allow_pickle=False) as inputs:
        tensors = {name: torch.from_numpy(inputs[name]) for name in inputs}
    out = model(tensors.pop("coord"), tensors.pop("atype"), **tensors)
    np.savez(
        file.with_suffix(".out.npz"),
        energy=out["energy"].detach().reshape(-1),
        forces=out["force"].detach(),
        virial=out["virial"].detach().reshape(-1, 3, 3),
    )


folder = Path(sys.argv[1])
for path in sorted(folder.glob("*.json")):
    make(json.loads(path.read_text()), path.with_suffix(".dp"))
for path in sorted(folder.glob("*.dp")):
    evaluate(path)
