"""The work on one chunk of a screening; the same code whatever runs it."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from geomlib.apply.screen.chemistry import Alerts, Standardizer, fingerprint, pattern, property_function
from geomlib.apply.screen.lines import lines_of
from geomlib.apply.screen.parts import Finished
from geomlib.apply.screen.plan import ScreenPlan
from geomlib.apply.screen.reading import Chunk, readable
from geomlib.data.rdkit_smiles import canonical_smiles, parse_molecule, smiles_problem
from geomlib.errors import GeomlibError

if TYPE_CHECKING:
    from rdkit.Chem import Mol

    from geomlib.apply.predict import Predictor

__all__ = ["OK", "Screener", "reason_of"]

OK = "ok"


class _Row:
    """A row on its way, without its molecule: those of a whole chunk would fill the caches.

    Args:
        given: cells of the input.
        new: cells of the new columns, filled in as far as the row comes.
    """

    __slots__ = ("given", "new", "smiles", "status")

    def __init__(self, given: Sequence[str], new: list[str]) -> None:
        self.given, self.new, self.status, self.smiles = given, new, OK, ""


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
        from rdkit import Chem

        self.plan, self.smiles_index = plan, smiles_index
        self.names = plan.columns(tuple(columns))
        self.place = {name: index for index, name in enumerate(self.names)}
        self.standardizer = Standardizer(plan.standardize) if plan.standardize else None
        self.include = [(text, pattern(text)) for text in plan.include]
        self.exclude = [(text, pattern(text)) for text in plan.exclude]
        self.alerts = Alerts(plan.alerts) if plan.alerts else None
        self.references = [fingerprint(parse_molecule(text, "reference")) for text in plan.references]
        self.rules = plan.rules
        self._functions = [property_function(name) for name in self.rules.properties]
        self._predictors: list[Predictor] | None = None
        self._parse, self._parse_block = Chem.MolFromSmiles, Chem.MolFromMolBlock

    def run(self, chunk: Chunk) -> Finished:
        """Rows of a chunk, all columns but those of the ranking, whose cells are empty."""
        from rdkit.rdBase import BlockLogs

        silence = BlockLogs()
        try:
            rows = [
                self._row(cells, chunk.problems.get(number, ""), chunk.blocks.get(number, ""))
                for number, cells in enumerate(chunk.cells)
            ]
        finally:
            del silence
        self._predict([row for row in rows if row.status == OK])
        last = self.place["status"]
        for number, row in enumerate(rows, start=chunk.first):
            row.new[0] = str(number)
            row.new[last] = readable(row.status)
        text = lines_of([*map(readable, row.given), *row.new] for row in rows)
        return Finished(text, Counter(reason_of(row.status) for row in rows))

    # ---------------------------------------------------------------- without models

    def _row(self, cells: Sequence[str], problem: str, block: str) -> _Row:
        row = _Row(cells, [""] * len(self.names))
        if problem:
            row.status = problem
            return row
        try:
            molecule = self._read(row, block)
            if molecule is not None:
                row.status = self._judge(row, molecule)
        except GeomlibError as error:
            row.status = f"not a molecule: {error}"
        except (RuntimeError, ValueError, OverflowError) as error:  # of RDKit: this row's trouble, not the others'
            row.status = f"can't be calculated: {_message(error)}"
        return row

    def _read(self, row: _Row, block: str) -> "Mol | None":
        """Molecule of a row; None if its status says why there is none."""
        text = row.given[self.smiles_index].strip()
        if block:
            molecule = self._parse_block(block)
            if molecule is None or not molecule.GetNumAtoms():
                row.status = "not a molecule: RDKit can't read the mol block"
                return None
            text = canonical_smiles(molecule)
            row.given = [*row.given[: self.smiles_index], text, *row.given[self.smiles_index + 1 :]]
        elif not text:
            row.status = "empty SMILES"
            return None
        elif len(text) > self.plan.max_length:
            row.status = f"too long: {len(text)} characters, at most {self.plan.max_length} are tried"
            return None
        elif not text.isascii():
            row.status = "not a molecule: the SMILES has characters that are not ASCII"
            return None
        else:
            molecule = self._parse(text)
            if molecule is None or not molecule.GetNumAtoms():
                row.status = f"not a molecule: {smiles_problem(text)}"
                return None
        row.smiles = text
        if self.standardizer is not None:
            try:
                molecule = self.standardizer(molecule)
            except (GeomlibError, RuntimeError, ValueError) as error:
                row.status = f"can't be standardised: {_message(error)}"
                return None
            row.smiles = row.new[self.place["standard_smiles"]] = canonical_smiles(molecule)
        return molecule

    def _judge(self, row: _Row, molecule: "Mol") -> str:
        rules = self.rules
        found = [function(molecule) for function in self._functions]
        start = self.place[rules.properties[0]] if found else 0
        row.new[start : start + len(found)] = map(_number, found)
        values = dict(zip(rules.properties, found, strict=True))
        for rule in rules.early:
            if not rule.holds(values[rule.name]):
                return f"rule: {rule.text} ({_number(values[rule.name])})"
        for chosen in rules.sets:
            if broken := chosen.broken(values):
                return f"rule: {chosen.name} ({', '.join(f'{r.text} is {_number(values[r.name])}' for r in broken)})"
        for allowed in rules.elements:
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
            similarity = self._compare(row, molecule)
            for rule in rules.similar:
                if not rule.holds(similarity):
                    return f"rule: {rule.text} ({_number(similarity)})"
        if self.alerts is not None and (alert := self.alerts.first(molecule)):
            return f"alert: {alert}"
        return OK

    def _compare(self, row: _Row, molecule: "Mol") -> float:
        from rdkit.DataStructs import BulkTanimotoSimilarity

        found = BulkTanimotoSimilarity(fingerprint(molecule), self.references)
        best = max(found)
        row.new[self.place["similarity"]] = _number(best)
        row.new[self.place["most_similar"]] = self.plan.references[found.index(best)]
        return float(best)

    # ---------------------------------------------------------------- with models

    def _predict(self, rows: list[_Row]) -> None:
        if not self.plan.models or not rows:
            return
        if self._predictors is None:
            from geomlib.apply.predict import Predictor

            self._predictors = [Predictor(list(group), device=self.plan.device) for group in self.plan.models]
        smiles = [row.smiles for row in rows]
        predicted: list[dict[str, float]] = [{} for _ in rows]
        for predictor in self._predictors:
            found = predictor.predict(smiles)
            for row, known, values, error in zip(rows, predicted, found.values.tolist(), found.errors, strict=True):
                if error is not None and row.status == OK:
                    row.status = f"prediction: {error}"
                for name, value in zip(predictor.columns, values, strict=True):
                    known[name] = value
                    row.new[self.place[name]] = _number(value)
        for row, known in zip(rows, predicted, strict=True):
            for rule in self.rules.late if row.status == OK else ():
                if not rule.holds(known[rule.name]):
                    row.status = f"rule: {rule.text} ({_number(known[rule.name])})"
                    break


def reason_of(status: str) -> str:
    """A status without what belongs to one row alone."""
    kind, _, rest = status.partition(": ")
    if kind in ("rule", "substructure", "alert"):
        return f"{kind}: {rest.split(' (')[0] if kind == 'rule' else rest}"
    return kind


def _message(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _number(value: float) -> str:
    """Six digits, nothing for NaN."""
    return f"{value:.6g}" if value == value else ""
