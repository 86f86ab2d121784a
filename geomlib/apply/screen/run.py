"""Screening: from a file of molecules to the same file with properties, predictions, ranks and a status of each row."""

import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geomlib import __version__
from geomlib.apply.screen.chemistry import fingerprint as ecfp4
from geomlib.apply.screen.chunk import OK, Screener
from geomlib.apply.screen.engine import ENGINES, run_chunks
from geomlib.apply.screen.lines import cells_of
from geomlib.apply.screen.parts import Parts
from geomlib.apply.screen.plan import ScreenPlan
from geomlib.apply.screen.ranking import Objective, desirability, pareto_fronts, pick_diverse, ranks
from geomlib.apply.screen.reading import MoleculeFile, fingerprint
from geomlib.apply.screen.writing import check_output, writing
from geomlib.data.rdkit_smiles import parse_molecule
from geomlib.errors import ConfigError, nearest

if TYPE_CHECKING:
    from rdkit.DataStructs import ExplicitBitVect

__all__ = ["STAGES", "ScreenPlan", "ScreenResult", "screen"]

STAGES = (
    ("readable", ("unreadable", "empty row", "empty SMILES", "too long")),
    ("a molecule", ("not a molecule",)),
    ("standardised", ("can't be standardised",)),
    ("calculated", ("can't be calculated",)),
    ("rules", ("rule",)),
    ("substructures", ("substructure",)),
    ("alerts", ("alert",)),
    ("predicted", ("prediction",)),
)
"""What a row passes → the beginnings of the statuses of those that don't."""


@dataclass(frozen=True, slots=True)
class ScreenResult:
    """What came of a screening.

    Attributes:
        output: file with all rows.
        rows: how many there are.
        ok: how many have the status `ok`.
        reasons: why the others have not, and how many each, the most frequent first.
        best: file with the best rows, if asked for.
        objectives: what was wanted.
        points: of the rows that are ok, the values of the objectives [ok, objectives].
        fronts: of the same rows, the Pareto front; empty without objectives.
        columns: of the output.
        source: the input.
        smiles_index: which of the columns is the SMILES.
        plan: what was done.
    """

    output: Path
    rows: int
    ok: int
    reasons: dict[str, int]
    best: Path | None
    objectives: tuple[Objective, ...]
    points: NDArray[np.float64]
    fronts: NDArray[np.int64]
    columns: tuple[str, ...]
    source: Path
    smiles_index: int
    plan: ScreenPlan

    def funnel(self) -> list[tuple[str, int]]:
        """Stage → rows that passed it and all before it, from `rows` on; stages that took nothing are left out."""
        left = self.rows
        found = [("rows", left)]
        for stage, beginnings in STAGES:
            taken = sum(count for reason, count in self.reasons.items() if reason.split(":")[0] in beginnings)
            left -= taken
            if taken:
                found.append((stage, left))
        return found


def screen(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    plan: ScreenPlan | None = None,
    *,
    smiles: str | None = None,
    workers: int = 1,
    engine: str = "local",
    chunk_rows: int = 2000,
    restart: bool = False,
    progress: Callable[[int], None] | None = None,
) -> ScreenResult:
    """Screen a file of molecules.

    Every row of the input is a row of the output, in the same order, with all its columns and new ones: `row`, its
    number; what was calculated as far as the row came; `status`, `ok` or what is wrong. Memory does not grow with the
    file, except by what a ranking needs: a few numbers of each row that is ok, and its fingerprint for diverse picks.

    Finished chunks lie in the folder `OUTPUT.parts` until the output is there. The same call after an interruption
    goes on with them. The result does not depend on interruptions, workers or engine.

    Args:
        source: `.csv`, `.tsv`, `.smi`, `.sdf`, plain or `.gz`, or `.parquet`.
        output: `.csv`, `.csv.gz` or `.parquet`.
        plan: what to do; six cheap properties if not given.
        smiles: column of the SMILES.
        workers: processes. Scripts that use more than one need `if __name__ == "__main__":`.
        engine: `local`, or `ray` for Ray Data.
        chunk_rows: rows of a chunk.
        restart: throw away finished chunks.
        progress: called with the number of rows that are done.

    Raises:
        ConfigError: a plan that can't be carried out on this file.
        DataError: a file that can't be read, or workers that died.
        FileFormatError: a model that can't be read.
        MissingExtra: Parquet or Ray without their packages.
    """
    plan = plan or ScreenPlan()
    path = Path(output)
    if engine not in ENGINES:
        raise ConfigError(f"engine '{engine}'{nearest(engine, ENGINES)}: expected {', '.join(ENGINES)}")
    if workers < 1 or chunk_rows < 1 or plan.diverse < 0 or plan.top < 0:
        raise ConfigError(
            f"workers {workers}, chunk_rows {chunk_rows}, diverse {plan.diverse}, top {plan.top}: expected at least "
            "one worker and one row, and no negative numbers"
        )
    check_output(path)
    file = MoleculeFile(Path(source), smiles)
    if path.exists() and path.samefile(file.path):
        raise ConfigError(f"{path}: is the input; give the output another name")
    plan = _with_models(plan)
    _check_objectives(plan)
    Screener(plan, file.columns, file.smiles_index)  # what can't be carried out fails here, before any worker
    manifest = {
        "geomlib": __version__,
        "plan": plan.to_json(),
        "input": {"columns": list(file.columns), "smiles": file.smiles_index, **fingerprint(file.path)},
        "models": {name: fingerprint(name) for group in plan.models for name in group},
        "chunk_rows": chunk_rows,
    }
    parts = Parts(path.with_name(f"{path.name}.parts"), manifest, restart=restart)
    done = 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(done)

    count = run_chunks(file, plan, parts, chunk_rows=chunk_rows, workers=workers, engine=engine, progress=advance)
    result = _Merge(plan, file, parts, count, path).run()
    parts.remove()
    return result


def _with_models(plan: ScreenPlan) -> ScreenPlan:
    """The plan with models of the same targets in one group, and with their columns."""
    if not plan.models:
        return plan
    from geomlib.apply.predict import Predictor

    groups: dict[tuple[str, ...], list[str]] = {}
    for name in (name for group in plan.models for name in group):
        targets = tuple(target.name for target in Predictor(name, device=plan.device).targets)
        groups.setdefault(targets, []).append(str(name))
    columns = [name for names in groups.values() for name in Predictor(names, device=plan.device).columns]
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if repeated:
        raise ConfigError(f"several models predict '{repeated[0]}', but not all the same targets")
    return replace(plan, models=tuple(map(tuple, groups.values())), predicted=tuple(columns))


def _check_objectives(plan: ScreenPlan) -> None:
    known = [name for name in (*plan.calculated, *plan.predicted) if name != "most_similar"]
    for row in plan.objectives:
        if row.column not in known:
            raise ConfigError(
                f"objective '{row.column}'{nearest(row.column, known)}: expected one of {', '.join(known)}"
            )
    if plan.top and not plan.objectives:
        raise ConfigError("top: needs objectives to know which rows are best")


@dataclass(frozen=True, slots=True)
class _Ranking:
    """What a ranking says of the rows that are ok, in their order; arrays, since there may be millions.

    Args:
        points: values of the objectives [ok, objectives].
        fronts: Pareto front of each; empty without objectives.
        wanted: desirability of each; empty without objectives.
        place: rank of each; empty without objectives.
        picked: place among them → number of a diverse pick.
    """

    points: NDArray[np.float64]
    fronts: NDArray[np.int64]
    wanted: NDArray[np.float64]
    place: NDArray[np.int64]
    picked: dict[int, int]

    def cells(self, index: int) -> dict[str, str]:
        """Cells of a row that is ok."""
        found = {}
        if len(self.fronts):
            found["pareto_front"] = str(self.fronts[index])
            found["desirability"] = f"{self.wanted[index]:.6g}"
            found["rank"] = str(self.place[index])
        if index in self.picked:
            found["diverse"] = str(self.picked[index])
        return found


class _Merge:
    """Puts chunks together: ranks what is ok, writes the output."""

    def __init__(self, plan: ScreenPlan, file: MoleculeFile, parts: Parts, count: int, output: Path) -> None:
        self.plan, self.file, self.parts, self.count, self.output = plan, file, parts, count, output
        self.names = plan.columns(file.columns)
        self.columns = (*file.columns, *self.names.values())
        self.place = {name: len(file.columns) + index for index, name in enumerate(self.names)}

    def run(self) -> ScreenResult:
        plan = self.plan
        reasons: Counter[str] = Counter()
        ranking = self._rank() if plan.objectives or plan.diverse else None
        top: list[tuple[int, list[str]]] = []
        seen = 0
        with writing(self.output, self.columns, self._types()) as writer:
            for chunk in self.parts.finished(self.count):
                reasons.update(chunk.reasons)
                if ranking is None:
                    writer.text(chunk.text)
                    continue
                rows = cells_of(chunk.text)
                for row in self._passed(rows):
                    for name, cell in ranking.cells(seen).items():
                        row[self.place[name]] = cell
                    if plan.top and ranking.place[seen] <= plan.top:
                        top.append((int(ranking.place[seen]), row))
                    seen += 1
                writer.rows(rows)
        best = self._write_best([row for _, row in sorted(top)]) if plan.top else None
        total, ok = reasons.total(), reasons.pop(OK, 0)
        ordered = dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])))
        points = np.empty((0, len(plan.objectives))) if ranking is None else ranking.points
        fronts = np.empty(0, dtype=np.int64) if ranking is None else ranking.fronts
        ranked = (plan.objectives, points, fronts)
        given = (self.file.path, self.file.smiles_index, plan)
        return ScreenResult(self.output, total, ok, ordered, best, *ranked, self.columns, *given)

    def _passed(self, rows: Iterable[list[str]]) -> Iterator[list[str]]:
        last = self.place["status"]
        return (row for row in rows if row[last] == OK)

    def _types(self) -> list[str]:
        given = self.file.types or ["string"] * len(self.file.columns)
        text = {"standard_smiles", "most_similar", "status"}
        whole = {"row", "pareto_front", "rank", "diverse"}
        return [*given, *("string" if n in text else "int64" if n in whole else "double" for n in self.names)]

    def _rank(self) -> _Ranking:
        objectives = self.plan.objectives
        where = [self.place[objective.column] for objective in objectives]
        values = array("d")
        bits: list[ExplicitBitVect] = []
        count = 0
        for chunk in self.parts.finished(self.count):
            for row in self._passed(cells_of(chunk.text)):
                count += 1
                values.extend(float(row[index]) for index in where)
                if self.plan.diverse:
                    standard = row[self.place["standard_smiles"]] if self.plan.standardize else ""
                    text = standard or row[self.file.smiles_index].strip()
                    bits.append(ecfp4(parse_molecule(text)))
        points = np.array(values, dtype=np.float64).reshape(count, len(objectives))
        fronts = place = np.empty(0, dtype=np.int64)
        wanted = np.empty(0)
        first = 0
        if objectives and count:
            costs = [row.cost(points[:, index]) for index, row in enumerate(objectives)]
            fronts = pareto_fronts(np.stack(costs, axis=1))
            wanted = desirability(objectives, list(points.T))
            place = ranks(fronts, wanted)
            first = int(np.argmin(place))
        picked = {index: number for number, index in enumerate(pick_diverse(bits, self.plan.diverse, first), start=1)}
        return _Ranking(points, fronts, wanted, place, picked)

    def _write_best(self, rows: Sequence[Sequence[str]]) -> Path:
        suffix = "".join(self.output.suffixes[-2:] if self.output.suffix == ".gz" else [self.output.suffix])
        best = self.output.with_name(f"{self.output.name.removesuffix(suffix)}-top{suffix}")
        with writing(best, self.columns, self._types()) as writer:
            writer.rows(rows)
        return best
