"""The work on one chunk of a screening; the same code whatever runs it."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from geomlib.apply.screen_chemistry import PROPERTIES, Alerts, Standardizer, fingerprint, pattern
from geomlib.apply.screen_plan import ScreenPlan
from geomlib.apply.screen_reading import Chunk, InputRow, readable
from geomlib.data.molecules import canonical_smiles, parse_molecule
from geomlib.errors import GeomlibError

if TYPE_CHECKING:
    from rdkit.Chem import Mol

    from geomlib.apply.predict import Predictor

__all__ = ["Screener"]

OK = "ok"


@dataclass(slots=True)
class _Work:
    """A row on its way: a status other than `ok` ends it."""

    row: InputRow
    status: str = OK
    molecule: "Mol | None" = None
    smiles: str = ""
    standard: str = ""
    cells: dict[str, str] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)


class Screener:
    """Carries out a plan, chunk by chunk.

    Args:
        plan: what to do, with `predicted` filled in.
        columns: of the input.
        smiles_index: which of them is the SMILES.

    Raises:
        ConfigError: rules, SMARTS or references that can't be read.
        DataError: a reference that is no molecule.
        FileFormatError: a model that can't be read.
    """

    def __init__(self, plan: ScreenPlan, columns: Sequence[str], smiles_index: int) -> None:
        self.plan, self.smiles_index = plan, smiles_index
        self.names = plan.columns(tuple(columns))
        self.rules = plan.rules
        self.standardizer = Standardizer(plan.standardize) if plan.standardize else None
        self.include = [(text, pattern(text)) for text in plan.include]
        self.exclude = [(text, pattern(text)) for text in plan.exclude]
        self.alerts = Alerts(plan.alerts) if plan.alerts else None
        self.references = [fingerprint(parse_molecule(text, "reference")) for text in plan.references]
        self.calculate = [(name, PROPERTIES[name]) for name in self.rules.properties]
        self._predictors: list[Predictor] | None = None

    def run(self, chunk: Chunk) -> str:
        """CSV rows of a chunk, all columns but those of the ranking, whose cells are empty."""
        from rdkit.rdBase import BlockLogs

        silence = BlockLogs()
        try:
            work = [self._molecule(row) for row in chunk.rows]
        finally:
            del silence
        self._predict([row for row in work if row.status == OK])
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for number, row in enumerate(work, start=chunk.first):
            given = list(map(readable, row.row.cells))
            if row.row.block:
                given[self.smiles_index] = row.smiles
            row.cells["row"] = str(number)
            row.cells["standard_smiles"] = row.standard
            row.cells["status"] = readable(row.status)
            writer.writerow(given + [row.cells.get(name, "") for name in self.names])
        return text.getvalue()

    # ---------------------------------------------------------------- without models

    def _molecule(self, row: InputRow) -> _Work:
        work = _Work(row)
        try:
            work.status = row.problem or self._read(work) or self._judge(work)
        except GeomlibError as error:
            work.status = f"not a molecule: {error}"
        return work

    def _read(self, work: _Work) -> str:
        from rdkit import Chem

        row = work.row
        text = row.cells[self.smiles_index].strip()
        if row.block:
            molecule = Chem.MolFromMolBlock(row.block)
            if molecule is None or not molecule.GetNumAtoms():
                return "not a molecule: RDKit can't read the mol block"
            text = canonical_smiles(molecule)
        elif not text:
            return "empty SMILES"
        elif len(text) > self.plan.max_length:
            return f"too long: {len(text)} characters, at most {self.plan.max_length} are tried"
        elif not text.isascii():
            return "not a molecule: the SMILES has characters that are not ASCII"
        else:
            molecule = Chem.MolFromSmiles(text)
            if molecule is None or not molecule.GetNumAtoms():
                parse_molecule(text)  # says why
                return "not a molecule: RDKit can't read it"
        work.smiles, work.molecule = text, molecule
        if self.standardizer is not None:
            try:
                work.molecule = self.standardizer(molecule)
            except (GeomlibError, RuntimeError, ValueError) as error:
                return f"can't be standardised: {' '.join(str(error).split())}"
            work.standard = canonical_smiles(work.molecule)
        return ""

    def _judge(self, work: _Work) -> str:
        molecule, values = work.molecule, work.values
        assert molecule is not None
        for name, function in self.calculate:
            value = values[name] = function(molecule)
            work.cells[name] = _number(value)
        for rule in self.rules.early:
            if not rule.holds(values[rule.name]):
                return f"rule: {rule.text} ({_number(values[rule.name])})"
        for chosen in self.rules.sets:
            if broken := chosen.broken(values):
                found = ", ".join(f"{rule.text} is {_number(values[rule.name])}" for rule in broken)
                return f"rule: {chosen.name} ({found})"
        for allowed in self.rules.elements:
            others = sorted({atom.GetSymbol() for atom in molecule.GetAtoms()} - allowed.symbols)
            if others:
                return f"rule: {allowed.text} ({', '.join(others)})"
        for text, query in self.include:
            if not molecule.HasSubstructMatch(query):
                return f"substructure: without {text}"
        for text, query in self.exclude:
            if molecule.HasSubstructMatch(query):
                return f"substructure: with {text}"
        if self.references:
            self._compare(work, molecule)
            for rule in self.rules.similar:
                if not rule.holds(values["similarity"]):
                    return f"rule: {rule.text} ({work.cells['similarity']})"
        if self.alerts is not None and (alert := self.alerts.first(molecule)):
            return f"alert: {alert}"
        return OK

    def _compare(self, work: _Work, molecule: "Mol") -> None:
        from rdkit.DataStructs import BulkTanimotoSimilarity

        found = BulkTanimotoSimilarity(fingerprint(molecule), self.references)
        best = max(found)
        work.values["similarity"] = best
        work.cells["similarity"] = _number(best)
        work.cells["most_similar"] = self.plan.references[found.index(best)]

    # ---------------------------------------------------------------- with models

    def _predict(self, rows: list[_Work]) -> None:
        if not self.plan.models or not rows:
            return
        if self._predictors is None:
            from geomlib.apply.predict import Predictor

            self._predictors = [Predictor(list(group), device=self.plan.device) for group in self.plan.models]
        smiles = [row.standard or row.smiles for row in rows]
        for predictor in self._predictors:
            found = predictor.predict(smiles)
            for work, values, error in zip(rows, found.values.tolist(), found.errors, strict=True):
                if error is not None and work.status == OK:
                    work.status = f"prediction: {error}"
                for name, value in zip(predictor.columns, values, strict=True):
                    work.values[name] = value
                    work.cells[name] = _number(value)
        for work in rows:
            for rule in self.rules.late if work.status == OK else ():
                if not rule.holds(work.values[rule.name]):
                    work.status = f"rule: {rule.text} ({work.cells[rule.name]})"
                    break


def _number(value: float) -> str:
    """Six digits, nothing for NaN."""
    return "" if math.isnan(value) else f"{value:.6g}"
