"""Families of geomlib beside each other and beside others' models on MoleculeNet tables.

    python scripts/benchmarks/molnet.py                                                    # what stands in the docs
    python scripts/benchmarks/molnet.py --sets esol --configurations dmpnn combined --seeds 0
    python scripts/benchmarks/molnet.py --configurations mist mist-scratch --pretrained encoder.safetensors
    python scripts/benchmarks/molnet.py --peer         # asks the interpreter of GEOMLIB_CHEMPROP_PYTHON as well

Nets, optimizer, schedule, batch size and epochs are those of recipes/dmpnn/<set>.yaml, but for what a configuration
changes. The fit sees the training part; the weights are those of the epoch with the lowest loss on the validation
part; the test part is predicted once, in the end. Sets with a ready split (ESOL, FreeSolv, BBBP) have its column
`scaffold`; the others are split here in the same way: groups of equal scaffold, largest first, into 80 % train, 10 %
val, 10 % test.

Runs are kept in --cache and not made again: the command can be stopped and repeated, and rows be added later. A run is
made again when anything that it is made of changes. `ensemble` is the mean of the predictions of other configurations
with the same seed, and costs nothing more.
"""

import argparse
import copy
import csv
import gzip
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from geomlib.data.graph import GraphData, collate
from geomlib.data.molecules import from_smiles, murcko_scaffold, parse_molecule
from geomlib.errors import DataError
from geomlib.files.modelfile import load
from geomlib.graphs.spec import GraphSpec
from geomlib.models import family
from geomlib.models.combined import CombinedNet
from geomlib.models.mist.net import MIST
from geomlib.models.mist.property import MISTProperty
from geomlib.models.property import PropertyNet
from geomlib.nn.targets import masked_losses
from geomlib.training import schedules

ROOT = Path(__file__).parents[2]
PEER_SCRIPT = Path(__file__).with_name("molnet_peer.py")
PEERS = ("chemprop", "boosting")


@dataclass(frozen=True)
class Table:
    """A data set.

    Args:
        file: its CSV.
        targets: columns; () for all but the SMILES.
        kind: `regression` (scored by RMSE) or `binary` (scored by ROC-AUC, mean over the targets).
        split: a file with a column `scaffold` of `train`, `val`, `test`; "" for one made here.
    """

    file: str
    targets: tuple[str, ...]
    kind: str
    split: str = ""


SETS = {
    "esol": Table(
        "esol_delaney.csv.gz", ("measured log solubility in mols per litre",), "regression", "splits/esol.csv.gz"
    ),
    "freesolv": Table("freesolv.csv.gz", ("freesolv",), "regression", "splits/freesolv.csv.gz"),
    "bbbp": Table("bbbp.csv.gz", ("p_np",), "binary", "splits/bbbp.csv.gz"),
    "clintox": Table("clintox.csv.gz", ("FDA_APPROVED", "CT_TOX"), "binary"),
    "sider": Table("sider.csv.gz", (), "binary"),
    "tox21": Table("tox21.csv.gz", (), "binary"),
}
"""Name of the set and of its recipe → what it is."""


@dataclass(frozen=True)
class Parts:
    """SMILES and labels of each part."""

    smiles: dict[str, list[str]]
    labels: dict[str, np.ndarray]


def read(name: str, data: Path) -> Parts:
    """The parts of a set."""
    table = SETS[name]
    with gzip.open(data / table.file, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = table.targets or tuple(column for column in rows[0] if column != "smiles")
    labels = np.array([[float(row[column]) if row[column] else math.nan for column in columns] for row in rows])
    where = split_of(name, data, [row["smiles"] for row in rows])
    smiles = {part: [rows[k]["smiles"] for k in chosen] for part, chosen in where.items()}
    return Parts(smiles, {part: labels[chosen] for part, chosen in where.items()})


def split_of(name: str, data: Path, smiles: list[str]) -> dict[str, list[int]]:
    """Rows of each part; what RDKit can't read is in none."""
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    if SETS[name].split:
        with gzip.open(data / SETS[name].split, "rt", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                parts[row["scaffold"]].append(int(row["row"]))
        return parts
    groups: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(smiles):
        try:
            groups[murcko_scaffold(parse_molecule(text, f"{name}, row {row}"))].append(row)
        except DataError as error:  # of Tox21, aluminium with six bonds
            print(f"left out: {error}", file=sys.stderr)
    used = sum(len(rows) for rows in groups.values())
    first, second = 0.8 * used, 0.9 * used
    for rows in sorted(groups.values(), key=lambda rows: (len(rows), rows[0]), reverse=True):
        if len(parts["train"]) + len(rows) <= first:
            parts["train"] += rows
        elif len(parts["train"]) + len(parts["val"]) + len(rows) <= second:
            parts["val"] += rows
        else:
            parts["test"] += rows
    return {part: sorted(rows) for part, rows in parts.items()}


# ------------------------------------------------------------------------------------------------ scores


def score(kind: str, labels: np.ndarray, predicted: np.ndarray) -> float:
    """RMSE, or ROC-AUC; the mean over the targets (of those with both classes)."""
    found = []
    for column in range(labels.shape[1]):
        known = np.isfinite(labels[:, column])
        y, p = labels[known, column], predicted[known, column]
        if kind == "regression":
            found.append(float(np.sqrt(np.mean((p - y) ** 2))))
        elif 0 < y.sum() < len(y):
            found.append(roc_auc(y, p))
    return float(np.mean(found)) if found else math.nan


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Share of the pairs of a positive and a negative that are in order; ties count half."""
    order = np.argsort(scores, kind="stable")
    ranks = np.empty(len(scores))
    first, counts = np.unique(scores[order], return_index=True, return_counts=True)[1:]
    ranks[order] = np.repeat(first + 0.5 * (counts + 1), counts)
    positives = int(labels.sum())
    above = ranks[labels == 1].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(labels) - positives)))


# ------------------------------------------------------------------------------------------------ configurations


@dataclass(frozen=True)
class Configuration:
    """One way to learn a set.

    Args:
        net: arguments of the recipe's net that are other than there.
        family: of another net, which then has `net` alone.
        pretrained: whether its text encoder starts from --pretrained; a combined net gets one as a further member.
        lr: learning rate, if not the recipe's.
        epochs: number of epochs, as a multiple of the recipe's.
        precision: `bf16-mixed` trains with matrix products in bfloat16; predictions are always made in float32.
        members: configurations whose predictions are averaged; then there is no fit.
    """

    net: dict[str, Any] = field(default_factory=dict)
    family: str = "dmpnn"
    pretrained: bool = False
    lr: float | None = None
    epochs: float = 1.0
    precision: str = "32-true"
    members: tuple[str, ...] = ()


GRAPH = {"family": "dmpnn", "dropout": 0.2}
TEXT = {"dropout": 0.1, "truncate": True}

CONFIGURATIONS = {
    "dmpnn": Configuration({"descriptors": None}),
    "dmpnn+descriptors": Configuration(),
    "descriptors": Configuration(
        {"descriptors": ["rdkit"], "dropout": 0.2, "descriptor_dropout": 0.1}, family="combined"
    ),
    "descriptors+ecfp": Configuration(
        {"descriptors": ["rdkit", "ecfp"], "dropout": 0.3, "descriptor_dropout": 0.3}, family="combined"
    ),
    "combined": Configuration(
        {"members": {"graph": GRAPH}, "descriptors": ["rdkit"], "dropout": 0.2, "descriptor_dropout": 0.1},
        family="combined",
    ),
    "mist": Configuration(TEXT, family="mist-property", pretrained=True, lr=5e-4, epochs=0.6, precision="bf16-mixed"),
    "mist-scratch": Configuration(TEXT, family="mist-property", lr=1e-3, epochs=0.6, precision="bf16-mixed"),
    "combined-mist": Configuration(
        {"members": {"graph": GRAPH}, "descriptors": ["rdkit"], "dropout": 0.2, "descriptor_dropout": 0.1},
        family="combined",
        pretrained=True,
        lr=3e-4,
        precision="bf16-mixed",
    ),
    "ensemble": Configuration(members=("dmpnn", "dmpnn+descriptors", "descriptors")),
    "ensemble-mist": Configuration(members=("dmpnn", "dmpnn+descriptors", "descriptors", "mist")),
}
"""Name in the table → what it is. The recipes as they are give `dmpnn+descriptors`."""

DEFAULT = ("dmpnn", "dmpnn+descriptors", "descriptors", "ensemble")


@dataclass(frozen=True)
class Settings:
    """All that a fit is made of, but for the data and the seed.

    Args:
        family: of the net.
        net: its arguments.
        lr: learning rate.
        weight_decay: of AdamW.
        schedule: class and arguments.
        batch_size: molecules of a batch.
        epochs: number of epochs.
        encoder: model file of a pretrained encoder that gives the size of its own; empty for none.
        pretrained: whether the weights are taken from it too.
        precision: of the training.
    """

    family: str
    net: dict[str, Any]
    lr: float
    weight_decay: float
    schedule: dict[str, Any]
    batch_size: int
    epochs: int
    encoder: str = ""
    pretrained: bool = False
    precision: str = "32-true"


def settings_of(
    table: str, name: str, pretrained: Path | None, epochs: int | None, lr: float | None = None
) -> Settings:
    """The recipe of a set with what a configuration changes.

    Args:
        table: name of the set.
        name: of the configuration.
        pretrained: file of --pretrained.
        epochs: instead of all others.
        lr: instead of all others.
    """
    configuration = CONFIGURATIONS[name]
    recipe = yaml.safe_load((ROOT / "recipes" / "dmpnn" / f"{table}.yaml").read_text(encoding="utf-8"))
    model, data = recipe["model"]["init_args"], recipe["data"]["init_args"]
    own = model["net"]["init_args"]
    if configuration.family == "dmpnn":
        net = {**own, **configuration.net}
        if not net["descriptors"]:
            net["descriptor_dropout"] = 0.0
    else:
        net = {"targets": own["targets"], **configuration.net}
    if configuration.pretrained and pretrained is None:
        raise SystemExit(f"configuration '{name}' starts from a pretrained net: give its file with --pretrained")
    return Settings(
        family=configuration.family,
        net=net,
        lr=lr or configuration.lr or model["optimizer"]["init_args"]["lr"],
        weight_decay=model["optimizer"]["init_args"]["weight_decay"],
        schedule=model["schedule"],
        batch_size=data["batch_size"],
        epochs=epochs or max(1, round(configuration.epochs * recipe["trainer"]["max_epochs"])),
        encoder=str(pretrained or "") if configuration.pretrained or configuration.family == "mist-property" else "",
        pretrained=configuration.pretrained,
        precision=configuration.precision,
    )


# ------------------------------------------------------------------------------------------------ fits


def make(settings: Settings) -> PropertyNet:
    """A net with fresh weights, but for an encoder that was pretrained."""
    arguments = copy.deepcopy(settings.net)
    if settings.family == "mist-property" and not settings.encoder:
        return MISTProperty.from_preset("tiny", **arguments)
    if not settings.encoder:
        kind = family(settings.family)
        assert issubclass(kind, PropertyNet)
        return kind(**arguments)
    source = load(settings.encoder)
    assert isinstance(source, MIST)
    if settings.family == "mist-property":
        net = MISTProperty.from_mist(source, **arguments)
        return net if settings.pretrained else MISTProperty(**net.config)
    member = MISTProperty.from_mist(source, arguments["targets"], truncate=True).config
    arguments["members"]["text"] = {"family": "mist-property", **member}
    del arguments["members"]["text"]["targets"]
    combined = CombinedNet(**arguments)
    combined.take_members({"text": source})
    return combined


def batches_of(graphs: list[GraphData], size: int, spec: GraphSpec) -> list[GraphData]:
    """Graphs in their order, as finished batches."""
    return [spec.complete(collate(graphs[start : start + size])) for start in range(0, len(graphs), size)]


def loss_of(net: PropertyNet, batch: GraphData) -> tuple[Tensor, Tensor]:
    """Sum of the losses of all labels that are there, and their number."""
    labels = net.normalizer.normalize(batch.target)
    sums, counts = masked_losses(net(batch)["target_raw"].float(), labels.float(), net.targets)
    return sums.sum(), counts.sum()


@torch.no_grad()
def predict(net: PropertyNet, batches: list[GraphData]) -> np.ndarray:
    """Targets in natural units."""
    net.eval()
    return torch.cat([net(batch)["target"] for batch in batches]).double().numpy()


@torch.no_grad()
def mean_loss(net: PropertyNet, batches: list[GraphData]) -> float:
    """Over all labels."""
    net.eval()
    sums, counts = zip(*(loss_of(net, batch) for batch in batches), strict=True)
    return float(sum(sums)) / float(sum(counts))


def fit(settings: Settings, parts: Parts, seed: int) -> dict[str, Any]:
    """Train once; predictions of the test part by the weights that were best on the validation part."""
    torch.manual_seed(seed)
    net = make(settings)
    graphs = {
        part: [
            from_smiles(text, target=torch.from_numpy(row).unsqueeze(0))
            for text, row in zip(parts.smiles[part], parts.labels[part], strict=True)
        ]
        for part in ("train", "val", "test")
    }
    net.fit_statistics(graphs["train"])
    for part in graphs.values():
        for graph in part:
            net.spec.prepare(graph)
    held_out = {part: batches_of(graphs[part], 128, net.spec) for part in ("val", "test")}
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = getattr(schedules, settings.schedule["class_path"])(**settings.schedule["init_args"])
    total = settings.epochs * math.ceil(len(graphs["train"]) / settings.batch_size)
    rate = LambdaLR(optimizer, lambda step: schedule.factor(step, total, settings.lr))
    best: tuple[float, int, dict[str, Tensor]] = (math.inf, 0, {})
    order = torch.Generator().manual_seed(seed)
    for epoch in range(settings.epochs):
        net.train()
        for chosen in torch.randperm(len(graphs["train"]), generator=order).split(settings.batch_size):
            batch = net.spec.complete(collate([graphs["train"][k] for k in chosen.tolist()]))
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16-mixed"):
                loss, count = loss_of(net, batch)
            optimizer.zero_grad(set_to_none=True)
            (loss / count).backward()
            optimizer.step()
            rate.step()
        if (value := mean_loss(net, held_out["val"])) < best[0]:
            best = (value, epoch, copy.deepcopy(net.state_dict()))
    net.load_state_dict(best[2])
    found = {part: predict(net, held_out[part]) for part in held_out}
    return {"epoch": best[1] + 1, "val": found["val"].tolist(), "test": found["test"].tolist()}


class Bench:
    """Makes runs, or finds them made.

    Args:
        data: folder of the tables.
        cache: folder of the runs.
        pretrained: model file that pretrained configurations start from.
        epochs: of every fit, instead of those of the recipe; for a trial.
        lr: learning rate of every fit, likewise.
        threads: of a fit.
        peer: interpreter that has the peers' libraries.
    """

    def __init__(
        self,
        data: Path,
        cache: Path,
        pretrained: Path | None = None,
        epochs: int | None = None,
        threads: int = 1,
        peer: str | None = None,
        lr: float | None = None,
    ) -> None:
        self.data, self.cache, self.pretrained, self.epochs, self.lr = data, cache, pretrained, epochs, lr
        self.threads, self.peer = threads, peer
        self._parts: dict[str, Parts] = {}

    def parts(self, table: str) -> Parts:
        """Parts of a set, read once."""
        if table not in self._parts:
            self._parts[table] = read(table, self.data)
        return self._parts[table]

    def run(self, table: str, name: str, seed: int) -> dict[str, Any]:
        """Test score, test predictions and CPU seconds of one run."""
        if name in PEERS:
            made_of: dict[str, Any] = {"peer": name, "script": _digest(PEER_SCRIPT.read_bytes())}
        elif members := CONFIGURATIONS[name].members:
            return self._mean([self.run(table, member, seed) for member in members], table)
        else:
            settings = settings_of(table, name, self.pretrained, self.epochs, self.lr)
            made_of = asdict(settings)
            if settings.encoder:
                made_of["encoder"] = _digest(Path(settings.encoder).read_bytes())
        key = _digest(json.dumps(made_of, sort_keys=True).encode())
        file = self.cache / table / name / f"{seed}-{key}.json"
        if file.is_file():
            return json.loads(file.read_text())
        began, wall = _cpu_seconds(), time.time()
        found = self._ask(table, name, seed) if name in PEERS else fit(settings, self.parts(table), seed)
        found["score"] = self._score(table, found["test"])
        found = {**made_of, "cpu_s": _cpu_seconds() - began, "wall_s": time.time() - wall, **found}
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".part")
        unfinished.write_text(json.dumps(found) + "\n")
        unfinished.replace(file)
        own = (
            f", {self._score(table, found['val'], 'val'):.3f} on val, epoch {found['epoch']}" if "val" in found else ""
        )
        note = f"{table}, {name}, seed {seed}: {found['score']:.3f}{own}, {found['cpu_s']:.0f} s of CPU"
        print(note, file=sys.stderr, flush=True)
        return found

    def _score(self, table: str, predicted: list[list[float]], part: str = "test") -> float:
        return score(SETS[table].kind, self.parts(table).labels[part], np.array(predicted))

    def _mean(self, runs: list[dict[str, Any]], table: str) -> dict[str, Any]:
        test = np.mean([run["test"] for run in runs], axis=0).tolist()
        return {"test": test, "score": self._score(table, test), "cpu_s": sum(run["cpu_s"] for run in runs)}

    def _ask(self, table: str, name: str, seed: int) -> dict[str, Any]:
        if self.peer is None:
            raise SystemExit(f"'{name}' needs GEOMLIB_CHEMPROP_PYTHON, an interpreter that has its library")
        parts = self.parts(table)
        request = {"method": name, "seed": seed, "threads": self.threads, "kind": SETS[table].kind}
        for part, labels in parts.labels.items():
            rows = [[None if math.isnan(value) else value for value in row] for row in labels.tolist()]
            request[part] = {"smiles": parts.smiles[part], "targets": rows}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "request.json"
            file.write_text(json.dumps(request))
            words = [self.peer, str(PEER_SCRIPT), str(file)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name} on {table}: {done.stderr.strip().splitlines()[-1]}")
        return json.loads(done.stdout.splitlines()[-1])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _cpu_seconds() -> float:
    return sum(os.times()[:4])  # this process and its children


# ------------------------------------------------------------------------------------------------ report


def markdown(table: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """A row for each configuration, a column for each set: mean and standard deviation of the test scores."""
    sets = list(table)
    names = list(dict.fromkeys(name for rows in table.values() for name in rows))
    titles = [f"{name} ({'RMSE' if SETS[name].kind == 'regression' else 'ROC-AUC'})" for name in sets]
    lines = ["| | " + " | ".join(titles) + " | CPU s a fit |", "|---" * (len(sets) + 2) + "|"]
    for name in names:
        cells = []
        for each in sets:
            scores = [run["score"] for run in table[each].get(name, [])]
            cells.append(f"{np.mean(scores):.3f} ± {np.std(scores):.3f}" if scores else "–")
        seconds = [
            f"{np.mean([run['cpu_s'] for run in table[each][name]]):.0f}" for each in sets if name in table[each]
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {', '.join(seconds)} |")
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["esol", "freesolv", "bbbp"])
    parser.add_argument("--configurations", nargs="*", choices=CONFIGURATIONS, default=list(DEFAULT))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--pretrained", type=Path, help="model file that pretrained configurations start from")
    parser.add_argument("--peer", nargs="*", choices=PEERS, help="peers to run; all if none is named")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "molnet")
    parser.add_argument("--cache", type=Path, default=Path("runs") / "molnet", help="folder that keeps the runs")
    parser.add_argument("--epochs", type=int, help="of every fit, for a trial")
    parser.add_argument("--lr", type=float, help="of every fit, for a trial")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all runs here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    peer = os.environ.get("GEOMLIB_CHEMPROP_PYTHON")
    bench = Bench(args.data, args.cache, args.pretrained, args.epochs, args.threads, peer, args.lr)
    peers = [] if args.peer is None else args.peer or list(PEERS)
    found = {
        each: {name: [bench.run(each, name, seed) for seed in args.seeds] for name in [*args.configurations, *peers]}
        for each in args.sets
    }
    text = markdown(found)
    print(text)
    if args.json is not None:
        args.json.write_text(json.dumps({"seeds": args.seeds, "runs": found}) + "\n")
    if args.markdown is not None:
        args.markdown.write_text(text + "\n")


if __name__ == "__main__":
    main()
