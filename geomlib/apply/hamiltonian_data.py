"""Making data of Kohn-Sham matrices with PySCF: whole calculations, or what a published database lacks."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from geomlib.apply.orbitals.fock import mean_field, pyscf_molecule
from geomlib.data.graph import GraphData
from geomlib.data.hamiltonians import MATRIX_FIELDS
from geomlib.data.theory import plain_basis, plain_functional
from geomlib.errors import DataError, FileFormatError, GeomlibError
from geomlib.nn.orbitals import generalised_eigenproblem

__all__ = ["HamiltonianFile", "Preparation", "complete", "converged", "own_fock_error"]

Values = dict[str, NDArray[Any]]
"""Arrays of a group, by name."""

_FAILURES = (GeomlibError, ValueError, ArithmeticError, RuntimeError, LookupError, AssertionError, TypeError)
"""What a calculation raises that can't be done; PySCF knows no error of its own for most of it."""


@dataclass(frozen=True)
class Preparation:
    """What a run of `HamiltonianFile.extend` did.

    Args:
        added: number of molecules that were computed.
        present: number of those that the file had already.
        complaints: number of a molecule → why it was left out.
    """

    added: int
    present: int
    complaints: dict[int, str] = field(default_factory=dict)


class HamiltonianFile:
    """A file for `HamiltonianStore`, filled molecule by molecule; nothing is lost when the work is interrupted.

    Each molecule is first written beside the file, in a folder `<file>.parts`, whole or not at all. They go into the
    file at the end, or when the next run begins, and the file is replaced in one step.

    Args:
        path: HDF5 file, made if it is not there.
        basis: basis set of the matrices.
        functional: in PySCF's words.
        level: of the grid.

    Raises:
        FileFormatError: the file was made with other settings.
    """

    def __init__(self, path: str | Path, basis: str, functional: str, level: int = 3) -> None:
        self.path = Path(path)
        self.parts = self.path.with_name(f"{self.path.name}.parts")
        self.settings: dict[str, str | int] = {"basis": basis, "xc": functional, "grids_level": level}
        if self.path.exists():
            with _open(self.path) as file:
                self._compare({name: file.attrs.get(name) for name in self.settings}, str(self.path))
        note = self.parts / "settings.json"
        if note.exists():
            self._compare(json.loads(note.read_text(encoding="utf-8")), str(self.parts))
        self.gather()

    def _compare(self, found: Mapping[str, Any], where: str) -> None:
        for name, value in self.settings.items():
            if _plain(name, found.get(name)) != _plain(name, value):
                raise FileFormatError(
                    f"{where}: was made with {name} {found.get(name)}, not {value}: name another file"
                )

    @property
    def done(self) -> set[int]:
        """Numbers of the molecules that are in the file or beside it."""
        found = {int(part.stem) for part in self.parts.glob("*.npz")}
        if self.path.exists():
            with _open(self.path) as file:
                found |= {int(name) for name in file}
        return found

    def extend(
        self,
        molecules: Iterable[tuple[int, Any]],
        compute: Callable[[Any], Values],
        progress: Callable[[int, str], object] | None = None,
    ) -> Preparation:
        """Compute the molecules that are not there yet.

        A molecule that can't be computed is left out and reported; a later run tries it again.

        Args:
            molecules: number, and what `compute` takes; it may also be a function that gives it, called only where it
                is needed.
            compute: gives the arrays of a group; `charge` becomes an attribute.
            progress: called after each molecule with its number and, where it was left out, why.
        """
        done, added, present, complaints = self.done, 0, 0, {}
        for number, molecule in molecules:
            if number in done:
                present += 1
                continue
            complaint = ""
            try:
                values = compute(molecule() if callable(molecule) else molecule)
            except _FAILURES as error:
                complaint = " ".join(str(error).split()) or type(error).__name__
                complaints[number] = complaint
            else:
                self._write_part(number, values)
                added += 1
            if progress is not None:
                progress(number, complaint)
        self.gather()
        return Preparation(added, present, complaints)

    def _write_part(self, number: int, values: Values) -> None:
        self.parts.mkdir(parents=True, exist_ok=True)
        (self.parts / "settings.json").write_text(json.dumps(self.settings), encoding="utf-8")
        unfinished = self.parts / f"{number:06d}.unfinished"
        with unfinished.open("wb") as stream:
            np.savez(stream, **values)  # type: ignore[arg-type]
        unfinished.replace(self.parts / f"{number:06d}.npz")

    def gather(self, records: int | None = None) -> None:
        """Move what stands beside the file into it.

        Args:
            records: number of molecules of the database that the file is made from, for splits by number.
        """
        parts = sorted(self.parts.glob("*.npz"))
        if not parts and (records is None or not self.path.exists()):
            return
        unfinished = self.path.with_name(f"{self.path.name}.unfinished")
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            shutil.copyfile(self.path, unfinished)
        else:
            unfinished.unlink(missing_ok=True)
        with h5py.File(unfinished, "a") as file:
            for name, value in self.settings.items():
                file.attrs[name] = value
            if records is not None:
                file.attrs["records"] = records
            for part in parts:
                if part.stem in file:  # gathered before an interruption that came ahead of the tidying
                    continue
                group = file.create_group(part.stem)
                with np.load(part, allow_pickle=False) as values:
                    for name in values:
                        if name == "charge":
                            group.attrs["charge"] = int(values[name])
                        else:
                            group[name] = values[name]
        unfinished.replace(self.path)
        shutil.rmtree(self.parts, ignore_errors=True)


def _plain(name: str, value: Any) -> Any:
    """A setting of a file for comparison: names of basis sets and functionals without their spelling."""
    if value is None or name not in ("basis", "xc"):
        return value
    return plain_basis(str(value)) if name == "basis" else plain_functional(str(value))


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise FileFormatError(f"{path}: is no HDF5 file ({error})") from None


def converged(
    atoms: Atoms, basis: str, functional: str, level: int = 3, tolerance: float = 1e-10, cycles: int = 50
) -> Values:
    """Matrices of a whole calculation, as lower triangles [1, n(n+1)/2, Hartree].

    Args:
        atoms: a molecule; charge from `atoms.info["charge"]`.
        basis: basis set.
        functional: in PySCF's words.
        level: of the grid.
        tolerance: of the energy [Hartree].
        cycles: at most.

    Raises:
        DataError: no closed shell, atoms that coincide, or an SCF that does not converge.
        ConfigError: PySCF does not know the basis set for an element.
    """
    molecule = pyscf_molecule(atoms, basis)
    run = mean_field(molecule, functional, level)
    run.conv_tol, run.max_cycle = tolerance, cycles
    guess = run.get_init_guess(key="minao")
    initial = run.get_fock(dm=guess)
    energy = run.kernel(dm0=guess)
    if not run.converged:
        raise DataError(f"the SCF did not converge in {run.max_cycle} cycles")
    matrices = {"fock": run.get_fock(), "fock_init": initial, "overlap": molecule.intor_symmetric("int1e_ovlp")}
    return _group(atoms.numbers, atoms.positions, matrices, int(molecule.charge)) | {
        "energy": np.array([energy]),
        "scf_cycles_minao": np.array([run.cycles], dtype=np.int16),
    }


def complete(graph: GraphData, basis: str, functional: str, level: int = 3) -> Values:
    """Matrices of a molecule of a database, with those that it lacks computed: of the initial density, and the overlap.

    Args:
        graph: with `hamiltonian`.
        basis: basis set of the matrix.
        functional: that it was made with.
        level: of the grid.

    Raises:
        DataError: the overlap that the database has is not that of the orbitals in PySCF's order.
    """
    molecule = _molecule(graph, basis)
    size = molecule.nao_nr()
    overlap = molecule.intor_symmetric("int1e_ovlp")
    if "overlap" in graph:
        difference = float(np.abs(graph.overlap.numpy().reshape(size, size) - overlap).max())
        if difference > 1e-5:
            raise DataError(f"its overlap differs from PySCF's by {difference:.1e}: another basis set or another order")
    if "initial_hamiltonian" in graph:
        initial = graph.initial_hamiltonian.numpy().reshape(size, size)
    else:
        run = mean_field(molecule, functional, level)
        initial = np.asarray(run.get_fock(dm=run.get_init_guess(key="minao")))
    matrices = {"fock": graph.hamiltonian.numpy().reshape(size, size), "fock_init": initial, "overlap": overlap}
    return _group(graph.atomic_number.numpy(), graph.pos.numpy(), matrices, molecule.charge)


def own_fock_error(graph: GraphData, basis: str, functional: str, level: int = 3) -> float:
    """How far a matrix is from being the one of its own density: max |F[P(H)] − H| [Hartree].

    A converged matrix gives back itself, within 1e-4 or so where grids differ. Another functional, another order of
    orbitals, another basis set or positions in another unit give more than 1e-2.

    Args:
        graph: with `hamiltonian`.
        basis: basis set of the matrix.
        functional: that it was made with.
        level: of the grid.
    """
    molecule = _molecule(graph, basis)
    size = molecule.nao_nr()
    matrix = graph.hamiltonian.view(size, size)
    overlap = graph.pos.new_tensor(molecule.intor_symmetric("int1e_ovlp"))
    occupied = generalised_eigenproblem(matrix, overlap).coefficients[:, : molecule.nelectron // 2].numpy()
    fock = mean_field(molecule, functional, level).get_fock(dm=2.0 * occupied @ occupied.T)
    return float(np.abs(np.asarray(fock) - matrix.numpy()).max())


def _molecule(graph: GraphData, basis: str) -> Any:
    charge = int(graph.charge) if "charge" in graph else 0
    atoms = Atoms(graph.atomic_number.numpy(), graph.pos.numpy(), info={"charge": charge})
    return pyscf_molecule(atoms, basis)


def _group(
    numbers: NDArray[Any], pos: NDArray[np.float64], matrices: Mapping[str, NDArray[Any]], charge: int
) -> Values:
    assert set(matrices) <= set(MATRIX_FIELDS.values())
    size = len(next(iter(matrices.values())))
    lower = np.tril_indices(size)
    values: Values = {name: np.asarray(matrix)[lower][None] for name, matrix in matrices.items()}
    values |= {"Z": np.asarray(numbers, dtype=np.int16), "pos": np.asarray(pos, dtype=np.float64)[None]}
    return values | ({"charge": np.array(charge)} if charge else {})
