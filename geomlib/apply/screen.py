"""Screening: from a file of molecules to the same file with properties, predictions, ranks and a status of each row."""

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomlib import __version__
from geomlib.apply.screen_chunk import Screener
from geomlib.apply.screen_engine import ENGINES, run_chunks
from geomlib.apply.screen_parts import Parts
from geomlib.apply.screen_plan import ScreenPlan
from geomlib.apply.screen_ranking import Objective, desirability, pareto_fronts, pick_diverse, ranks
from geomlib.apply.screen_reading import MoleculeFile, fingerprint
from geomlib.apply.screen_writing import RowWriter, check_output, writing
from geomlib.errors import ConfigError, nearest

__all__ = ["STAGES", "ScreenPlan", "ScreenResult", "screen"]

STAGES = (
    ("readable", ("unreadable", "empty row", "empty SMILES", "too long")),
    ("a molecule", ("not a molecule",)),
    ("standardised", ("can't be standardised",)),
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


class _Merge:
    """Puts chunks together: ranks what is ok, writes the output."""

    def __init__(self, plan: ScreenPlan, file: MoleculeFile, parts: Parts, count: int, output: Path) -> None:
        self.plan, self.file, self.parts, self.count, self.output = plan, file, parts, count, output
        self.names = plan.columns(file.columns)
        self.columns = (*file.columns, *self.names.values())
        self.place = {name: len(file.columns) + index for index, name in enumerate(self.names)}

    def run(self) -> ScreenResult:
        plan = self.plan
        points = np.empty((0, len(plan.objectives)))
        extra: dict[int, dict[str, str]] = {}
        best = None
        fronts = np.empty(0, dtype=np.int64)
        if plan.objectives or plan.diverse:
            rows, points, smiles = self._survivors()
            extra, fronts = self._rank(rows, points, smiles)
        reasons: Counter[str] = Counter()
        total = 0
        with writing(self.output, self.columns, self._types()) as writer:
            for row in self._rows():
                total += 1
                status = row[self.place["status"]]
                reasons[_reason(status)] += 1
                self._complete(row, extra)
                writer.writerow(row)
        if plan.top:
            suffix = "".join(self.output.suffixes[-2:] if self.output.suffix == ".gz" else [self.output.suffix])
            best = self.output.with_name(f"{self.output.name.removesuffix(suffix)}-top{suffix}")
            with writing(best, self.columns, self._types()) as writer:
                self._write_best(writer, extra)
        ok = reasons.pop("ok", 0)
        ordered = dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])))
        return ScreenResult(self.output, total, ok, ordered, best, plan.objectives, points, fronts, self.columns)

    def _rows(self) -> Iterator[list[str]]:
        for text in self.parts.text(self.count):
            yield from csv.reader(io.StringIO(text, newline=""))

    def _types(self) -> list[str]:
        given = self.file.types or ["string"] * len(self.file.columns)
        text = {"standard_smiles", "most_similar", "status"}
        whole = {"row", "pareto_front", "rank", "diverse"}
        return [*given, *("string" if n in text else "int64" if n in whole else "double" for n in self.names)]

    def _survivors(self) -> tuple[list[int], NDArray[np.float64], list[str]]:
        """Numbers, objectives and, for diverse picks, SMILES of the rows that are ok."""
        rows: list[int] = []
        values: list[list[float]] = []
        smiles: list[str] = []
        for row in self._rows():
            if row[self.place["status"]] != "ok":
                continue
            rows.append(int(row[self.place["row"]]))
            values.append([float(row[self.place[objective.column]]) for objective in self.plan.objectives])
            if self.plan.diverse:
                standard = row[self.place["standard_smiles"]] if self.plan.standardize else ""
                smiles.append(standard or row[self.file.smiles_index].strip())
        return rows, np.array(values).reshape(len(rows), len(self.plan.objectives)), smiles

    def _rank(
        self, rows: list[int], points: NDArray[np.float64], smiles: list[str]
    ) -> tuple[dict[int, dict[str, str]], NDArray[np.int64]]:
        """Row → cells of the ranking, and the fronts."""
        extra: dict[int, dict[str, str]] = {row: {} for row in rows}
        fronts = np.empty(0, dtype=np.int64)
        order = np.arange(len(rows))
        if self.plan.objectives and rows:
            costs = [row.cost(points[:, index]) for index, row in enumerate(self.plan.objectives)]
            fronts = pareto_fronts(np.stack(costs, axis=1))
            wanted = desirability(self.plan.objectives, list(points.T))
            place = ranks(fronts, wanted)
            order = np.argsort(place)
            for index, row in enumerate(rows):
                extra[row] = {
                    "pareto_front": str(fronts[index]),
                    "desirability": f"{wanted[index]:.6g}",
                    "rank": str(place[index]),
                }
        if self.plan.diverse and rows:
            for number, index in enumerate(pick_diverse(smiles, self.plan.diverse, int(order[0])), start=1):
                extra[rows[index]]["diverse"] = str(number)
        return extra, fronts

    def _complete(self, row: list[str], extra: dict[int, dict[str, str]]) -> None:
        for name, cell in extra.get(int(row[self.place["row"]]), {}).items():
            row[self.place[name]] = cell

    def _write_best(self, writer: RowWriter, extra: dict[int, dict[str, str]]) -> None:
        wanted = {row for row, cells in extra.items() if int(cells["rank"]) <= self.plan.top}
        found = []
        for row in self._rows():
            if int(row[self.place["row"]]) in wanted:
                self._complete(row, extra)
                found.append(row)
        for row in sorted(found, key=lambda cells: int(cells[self.place["rank"]])):
            writer.writerow(row)


def _reason(status: str) -> str:
    """A status without what belongs to one row alone."""
    kind, _, rest = status.partition(": ")
    if kind in ("rule", "substructure", "alert"):
        return f"{kind}: {rest.split(' (')[0] if kind == 'rule' else rest}"
    return kind
