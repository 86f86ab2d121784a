"""Excess volumes and enthalpies of mixtures that no training row has: an excess net beside baselines.

Excess volumes are taken from densities (pure substances of the same source and temperature), or as measured. All
rows of a mixture, in either order and at any composition and temperature, are in one part. Baselines: ideal mixing
(excess 0), the nearest neighbours and boosted trees on RDKit descriptors of both molecules, fraction and temperature.

    python scripts/benchmarks/mixtures.py --data ../shared/data/mixture_binary/excess_binary.csv.gz
    python scripts/benchmarks/mixtures.py --data … --table excess.csv.gz     # writes the table for recipes, and stops
"""

import argparse
import csv
import gzip
import time
from pathlib import Path

import numpy as np
import torch

from geomlib.data.descriptors import calculate_descriptors, expand_descriptors
from geomlib.data.graph import GraphData
from geomlib.data.mixtures import CompoundSplit, DensityRow, PairSplit, excess_volumes
from geomlib.data.molecules import canonical_smiles, from_smiles, parse_molecule
from geomlib.data.stores import MemoryStore
from geomlib.models import ExcessNet
from geomlib.nn.targets import masked_losses

TARGETS = ("excess_molar_volume_cm3_mol", "excess_molar_enthalpy_J_mol")
LARGEST = 5.0
"""cm³/mol; a set of densities that gives more than this holds a mistake of units or fractions."""


def read(path: Path) -> tuple[list[tuple[str, str, float, float]], np.ndarray, str]:
    """(molecule 1, molecule 2, x, T) of each row with a label, labels [rows, 2], and a word about what was left out."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    known = {s: parse_molecule(s) for row in rows for s in (row["smi1"], row["smi2"])}
    mass_of = {s: float(calculate_descriptors(m, ("MolWt",))[0]) for s, m in known.items()}
    name = {s: canonical_smiles(m) for s, m in known.items()}
    masses = {name[s]: mass for s, mass in mass_of.items()}
    densities, keys, values, dropped = [], [], [], 0
    for row in rows:
        first, second = name[row["smi1"]], name[row["smi2"]]
        x, t, value = float(row["x1"]), float(row["T_K"]), float(row["value"])
        if row["quantity"] == "density_g_cm3":
            densities.append(DensityRow(first, second, x, t, value, row["doi"]))
        elif row["quantity"] in TARGETS and first != second:
            keys.append((first, second, x, t))
            values.append([value if row["quantity"] == target else np.nan for target in TARGETS])
    volumes = excess_volumes(densities, masses).numpy()
    worst: dict[tuple, float] = {}
    for row, volume in zip(densities, volumes, strict=True):
        key = (frozenset((row.first, row.second)), row.source)
        if np.isfinite(volume):
            worst[key] = max(worst.get(key, 0.0), abs(volume))
    for row, volume in zip(densities, volumes, strict=True):
        mixture = 1e-9 < row.fraction < 1 - 1e-9 and row.first != row.second
        if np.isfinite(volume) and mixture:
            if worst[frozenset((row.first, row.second)), row.source] > LARGEST:
                dropped += 1
                continue
            keys.append((row.first, row.second, row.fraction, row.temperature))
            values.append([volume, np.nan])
    return keys, np.array(values), f"{dropped} rows of sets that reach beyond {LARGEST:g} cm³/mol are left out"


def write(path: Path, keys: list, values: np.ndarray) -> None:
    """A table for `MixtureStore` and recipes."""
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["smiles_1", "smiles_2", "x_1", "temperature", *TARGETS])
        for key, row in zip(keys, values, strict=True):
            table.writerow([*key, *("" if np.isnan(value) else f"{value:.6g}" for value in row)])


class Table:
    """Rows as tensors, with descriptors of each distinct molecule."""

    def __init__(self, keys: list, values: np.ndarray, names: tuple[str, ...]) -> None:
        molecules = sorted({s for key in keys for s in key[:2]})
        place = {s: k for k, s in enumerate(molecules)}
        matrix = [calculate_descriptors(parse_molecule(s), names) for s in molecules]
        self.descriptors = torch.from_numpy(np.stack(matrix)).float()
        self.pair = torch.tensor([[place[key[0]], place[key[1]]] for key in keys])
        self.x = torch.tensor([key[2] for key in keys], dtype=torch.float64)
        self.t = torch.tensor([key[3] for key in keys], dtype=torch.float64)
        self.labels = torch.from_numpy(values)

    def batch(self, rows: torch.Tensor) -> GraphData:
        """Mixtures of some rows."""
        batch = GraphData(
            descriptors=self.descriptors[self.pair[rows].flatten()],
            component_graph=torch.arange(len(rows)).repeat_interleave(2),
            mole_fraction=torch.stack([self.x[rows], 1 - self.x[rows]], 1).flatten(),
            temperature=self.t[rows],
        )
        batch.__dict__["_num_graphs"] = len(rows)
        return batch

    def features(self, rows: torch.Tensor, swap: bool) -> np.ndarray:
        """What trees and neighbours see: descriptors of both molecules, x, x(1 − x), T."""
        order = [1, 0] if swap else [0, 1]
        x = 1 - self.x[rows] if swap else self.x[rows]
        both = self.descriptors[self.pair[rows][:, order]].flatten(1)
        return torch.cat([both, torch.stack([x, x * (1 - x), self.t[rows]], 1).float()], 1).numpy()


def fit_nets(table: Table, parts: dict, options: argparse.Namespace, names: tuple[str, ...], seed: int) -> torch.Tensor:
    """Mean of the predictions of several nets."""
    found = [fit_net(table, parts, options, names, 100 * seed + member) for member in range(options.members)]
    return torch.stack(found).mean(0)


def fit_net(table: Table, parts: dict, options: argparse.Namespace, names: tuple[str, ...], seed: int) -> torch.Tensor:
    """Predictions of all rows, by the epoch that is best on the validation part."""
    torch.manual_seed(seed)
    net = ExcessNet(
        list(TARGETS),
        {"family": "combined", "descriptors": list(names), "descriptor_bound": 4.0, "descriptor_dropout": 0.1},
        interactions=options.interactions,
        controls=options.controls,
        dropout=options.dropout,
        linear=False,
    )
    train = parts["train"]
    used = table.pair[train].flatten().unique()
    net.molecule.descriptor_normalizer.fit([table.descriptors[used]])
    net.normalizer.fit(table.labels[train])
    net.normalizer.mean.zero_()
    net.excess_deviation.copy_(net.normalizer.deviation)
    optimizer = torch.optim.AdamW(net.parameters(), lr=options.lr, weight_decay=0.05)
    steps = options.epochs * (len(train) // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=steps, pct_start=0.1)
    labels, best, kept = net.normalizer.normalize(table.labels), np.inf, None
    for epoch in range(options.epochs):
        net.train()
        for rows in train[torch.randperm(len(train))].split(options.batch):
            if len(rows) < options.batch:
                break
            raw = net(table.batch(rows))["target_raw"]
            sums, counts = masked_losses(raw, labels[rows], net.targets, options.loss)
            loss = (sums / counts.clamp_min(1)).sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        found = predict(net, table)
        score = sum(
            float(e[~e.isnan()].square().mean())
            for e in ((found - table.labels)[parts["val"]] / net.normalizer.deviation).unbind(1)
            if bool((~e.isnan()).any())
        )
        if score < best:
            best, kept = score, found
        if options.verbose:
            print(f"epoch {epoch} val {score:.4f}", errors(found, table, parts["test"]), flush=True)
    return kept


@torch.no_grad()
def predict(net: ExcessNet, table: Table) -> torch.Tensor:
    net.eval()
    rows = torch.arange(len(table.x))
    return torch.cat([net(table.batch(part))["target"] for part in rows.split(4096)]).double()


def fit_trees(table: Table, parts: dict, weighed: bool, seed: int) -> torch.Tensor:
    """Boosted trees on both orders of the molecules; `weighed` learns the excess over x (1 − x)."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    found = torch.full_like(table.labels, torch.nan)
    for column in range(len(TARGETS)):
        rows = parts["train"][~table.labels[parts["train"], column].isnan()]
        ends = (table.x * (1 - table.x)).clamp_min(1e-4)
        scale = ends if weighed else torch.ones_like(ends)
        y = (table.labels[:, column] / scale)[rows].numpy()
        x = np.concatenate([table.features(rows, swap) for swap in (False, True)])
        model = HistGradientBoostingRegressor(max_iter=200, learning_rate=0.08, max_leaf_nodes=31, random_state=seed)
        model.fit(x, np.concatenate([y, y]), np.tile((scale[rows] ** 2).numpy(), 2))
        test = parts["test"]
        mean = np.mean([model.predict(table.features(test, swap)) for swap in (False, True)], axis=0)
        found[test, column] = torch.from_numpy(mean) * scale[test]
    return found


def fit_neighbours(table: Table, parts: dict) -> torch.Tensor:
    """Mean over the five nearest rows in standardised features, fraction and temperature among them."""
    from sklearn.neighbors import KNeighborsRegressor

    found = torch.full_like(table.labels, torch.nan)
    for column in range(len(TARGETS)):
        rows = parts["train"][~table.labels[parts["train"], column].isnan()]
        x = np.nan_to_num(np.concatenate([table.features(rows, swap) for swap in (False, True)]))
        mean, sd = x.mean(0), x.std(0) + 1e-6
        bounded = [
            np.clip((np.nan_to_num(part) - mean) / sd, -4, 4) for part in (x, table.features(parts["test"], False))
        ]
        for part in bounded:
            part[:, -3:] *= 5.0
        model = KNeighborsRegressor(5, weights="distance", algorithm="brute")
        y = table.labels[rows, column].numpy()
        model.fit(bounded[0], np.concatenate([y, y]))
        found[parts["test"], column] = torch.from_numpy(
            np.concatenate([model.predict(piece) for piece in np.array_split(bounded[1], 20)])
        )
    return found


def errors(found: torch.Tensor, table: Table, rows: torch.Tensor) -> list[tuple[float, float]]:
    """(MAE, RMSE) of each target."""
    off = (found - table.labels)[rows]
    there = [column[~table.labels[rows, k].isnan()] for k, column in enumerate(off.unbind(1))]
    return [(float(e.abs().mean()), float(e.square().mean().sqrt())) for e in there]


def models(table: Table, parts: dict, options: argparse.Namespace, names: tuple[str, ...], seed: int) -> dict:
    """Name → what gives its predictions."""
    return {
        "ideal mixing": lambda: torch.zeros_like(table.labels),
        "5 nearest neighbours, descriptors": lambda: fit_neighbours(table, parts),
        "boosted trees, descriptors": lambda: fit_trees(table, parts, False, seed),
        "boosted trees, excess / x(1-x)": lambda: fit_trees(table, parts, True, seed),
        "excess net, descriptors": lambda: fit_nets(table, parts, options, names, seed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mixture_binary/excess_binary.csv.gz"))
    parser.add_argument("--table", type=Path, help="write the table for recipes, and stop")
    parser.add_argument("--split", choices=["pair", "compound"], default="pair")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--members", type=int, default=3, help="nets whose mean is taken")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--loss", choices=["mse", "huber"], default="mse")
    parser.add_argument("--interactions", default="concat")
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--controls", type=int, default=3)
    parser.add_argument("--only", help="models whose name holds this")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keys, values, note = read(options.data)
    counts = ", ".join(f"{int((~np.isnan(values[:, k])).sum())} of {name}" for k, name in enumerate(TARGETS))
    print(f"{len(keys)} rows ({counts}), {len({frozenset(key[:2]) for key in keys})} mixtures; {note}")
    if options.table:
        write(options.table, keys, values)
        return
    names = expand_descriptors("rdkit")
    table = Table(keys, values, names)
    store = MemoryStore([from_smiles(key[:2], [key[2], 1 - key[2]]) for key in keys], "mixtures")
    print(f"{'model':<34} {'seed':>4} {'V MAE':>8} {'V RMSE':>8} {'H MAE':>8} {'H RMSE':>8} {'CPU s':>7}")
    for seed in options.seeds:
        made = PairSplit(0.1, 0.2, seed) if options.split == "pair" else CompoundSplit(0.15, 0.25, seed)
        parts = made.indices(store)
        print("rows", {name: len(rows) for name, rows in parts.items()})
        ways = models(table, parts, options, names, seed)
        for name, way in ways.items():
            if options.only and options.only not in name:
                continue
            began = time.process_time()
            found = way()
            (v, vr), (h, hr) = errors(found, table, parts["test"])
            used = time.process_time() - began
            print(f"{name:<34} {seed:>4} {v:>8.4f} {vr:>8.4f} {h:>8.1f} {hr:>8.1f} {used:>7.0f}", flush=True)


if __name__ == "__main__":
    main()
