"""What others' models reach on a table with a ready split; `molnet.py --peer` runs this in their environment.

    python scripts/benchmarks/molnet_peer.py REQUEST.json

The request holds `method` (`chemprop` or `boosting`), `seed`, `threads`, `kind` (`regression` or `binary`), and for
each of `train`, `val`, `test` the `smiles` and the `targets` (rows; null where nothing was measured). Prints a JSON
object with `library`, the `test` predictions (rows) and `cpu_s`, which leaves imports out.

* `chemprop`: chemprop 2 with its defaults (D-MPNN of depth 3 and 300 channels, one hidden layer of 300, norm
  aggregation, batches of 64, 50 epochs, learning rate 1e-4 → 1e-3 → 1e-4 with 2 epochs of warm-up); the best epoch on
  val.
* `boosting`: gradient-boosted trees on ECFP4 counts (2048) and all two-dimensional descriptors of RDKit but Ipc, one
  model for each target. LightGBM where installed (up to 500 trees, learning rate 0.05, 31 leaves, stops 50 trees after
  the best on val), else scikit-learn's HistGradientBoosting.

It imports nothing of geomlib.
"""

import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

EPOCHS, BATCH = 50, 64


def features(smiles: list[str]) -> np.ndarray:
    """ECFP4 counts and two-dimensional descriptors."""
    from rdkit import Chem, rdBase
    from rdkit.Chem import Descriptors, rdFingerprintGenerator

    names = [name for name, _ in Descriptors.descList if name != "Ipc"]
    functions = dict(Descriptors.descList)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    silence = rdBase.BlockLogs()
    rows = []
    for text in smiles:
        molecule = Chem.MolFromSmiles(text)
        values = []
        for name in names:
            try:
                values.append(float(functions[name](molecule)))
            except (ValueError, RuntimeError, ArithmeticError, IndexError, KeyError):
                values.append(np.nan)
        rows.append(np.concatenate([generator.GetCountFingerprintAsNumPy(molecule), np.clip(values, -1e6, 1e6)]))
    del silence
    return np.array(rows, dtype=np.float64)


def boosting(request: dict[str, Any]) -> tuple[np.ndarray, str]:
    """Predictions for the test part."""
    tables = {part: features(request[part]["smiles"]) for part in ("train", "val", "test")}
    labels = {part: np.array(request[part]["targets"], dtype=np.float64) for part in ("train", "val")}
    regression = request["kind"] == "regression"
    columns, library = [], ""
    for target in range(labels["train"].shape[1]):
        known = {part: np.isfinite(labels[part][:, target]) for part in labels}
        data = {part: (tables[part][known[part]], labels[part][known[part], target]) for part in labels}
        try:
            import lightgbm

            library = f"lightgbm {lightgbm.__version__}"
            options = {"n_estimators": 500, "learning_rate": 0.05, "num_leaves": 31, "verbose": -1}
            options |= {"random_state": request["seed"], "n_jobs": request["threads"]}
            options |= {"subsample": 0.8, "subsample_freq": 1, "colsample_bytree": 0.8}  # else seeds change nothing
            make = lightgbm.LGBMRegressor if regression else lightgbm.LGBMClassifier
            model = make(**options)
            stop = lightgbm.early_stopping(50, verbose=False)
            model.fit(*data["train"], eval_set=[data["val"]], callbacks=[stop])
        except ImportError:
            import sklearn
            from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

            library = f"scikit-learn {sklearn.__version__}"
            kind = HistGradientBoostingRegressor if regression else HistGradientBoostingClassifier
            model = kind(max_iter=300, learning_rate=0.05, random_state=request["seed"])
            model.fit(*data["train"])
        columns.append(model.predict(tables["test"]) if regression else model.predict_proba(tables["test"])[:, 1])
    return np.stack(columns, axis=1), library


def chemprop(request: dict[str, Any], folder: Path) -> tuple[np.ndarray, str]:
    """Predictions for the test part."""
    import chemprop
    import torch
    from chemprop import data, models, nn
    from lightning import pytorch as pl
    from lightning.pytorch.callbacks import ModelCheckpoint

    torch.set_num_threads(request["threads"])
    pl.seed_everything(request["seed"], verbose=False)
    regression, sets = request["kind"] == "regression", {}
    for part in ("train", "val", "test"):
        rows = np.array(request[part]["targets"], dtype=np.float64)
        points = [
            data.MoleculeDatapoint.from_smi(text, y) for text, y in zip(request[part]["smiles"], rows, strict=True)
        ]
        sets[part] = data.MoleculeDataset(points)
        sets[part].cache = True
    tasks, transform = rows.shape[1], None
    if regression:
        scaler = sets["train"].normalize_targets()
        sets["val"].normalize_targets(scaler)
        transform = nn.UnscaleTransform.from_standard_scaler(scaler)
        predictor = nn.RegressionFFN(n_tasks=tasks, output_transform=transform)
    else:
        predictor = nn.BinaryClassificationFFN(n_tasks=tasks)
    model = models.MPNN(nn.BondMessagePassing(), nn.NormAggregation(), predictor, warmup_epochs=2)
    loaders = {
        part: data.build_dataloader(dataset, BATCH, num_workers=0, seed=request["seed"], shuffle=part == "train")
        for part, dataset in sets.items()
    }
    keep = ModelCheckpoint(dirpath=folder, monitor="val_loss", mode="min", save_top_k=1)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=EPOCHS, accelerator="cpu", devices=1, callbacks=[keep], **quiet)
    trainer.fit(model, loaders["train"], loaders["val"])
    best = torch.load(keep.best_model_path, weights_only=False, map_location="cpu")  # written a moment ago, here
    model.load_state_dict(best["state_dict"])
    parts = trainer.predict(model, loaders["test"])
    return torch.cat(parts).double().numpy().reshape(len(sets["test"]), tasks), f"chemprop {chemprop.__version__}"


def main() -> None:
    """Answer one request."""
    warnings.filterwarnings("ignore")
    file = Path(sys.argv[1])
    request = json.loads(file.read_text())
    if request["method"] == "chemprop":
        import chemprop as _chemprop  # noqa: F401 - its import is no training

        for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)
    began = time.process_time()
    found, library = boosting(request) if request["method"] == "boosting" else chemprop(request, file.parent)
    print(json.dumps({"library": library, "cpu_s": time.process_time() - began, "test": found.tolist()}))


if __name__ == "__main__":
    main()
