"""Predicted Kohn-Sham matrices at work: orbitals, charges, dipole, a start for an SCF, energies without one."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float
from numpy.typing import NDArray

from geomlib.data.graph import GraphData
from geomlib.data.hamiltonians import closest_atoms
from geomlib.data.orbitals import shells_of
from geomlib.errors import ConfigError, DataError, GeomlibWarning, MissingExtra, UnknownElement
from geomlib.files.manifest import AnyNet
from geomlib.files.modelfile import load
from geomlib.nn.orbitals import generalised_eigenproblem
from geomlib.units import conversion_factor

__all__ = ["FockPredictor", "Guess", "OrbitalReport", "choose_guess", "initial_guess", "write_cubes"]

HARTREE_EV = conversion_factor("Hartree", "eV")
BOHR_ANGSTROM = conversion_factor("Bohr", "Å")

_SHARED = 0.93
"""Least `Guess.shared` of a prediction that is taken. Converged orbitals of 40 small molecules and of frames of water
and ethanol at 500 K have 0.956 or more, predictions that cost an SCF more cycles than `minao` had 0.912 or less."""


@dataclass(frozen=True)
class OrbitalReport:
    """What follows from one matrix.

    Args:
        fock: the matrix [n, n, Hartree], in PySCF's order.
        overlap: of the atomic orbitals [n, n].
        energies: of the orbitals [n, Hartree].
        coefficients: orbitals as columns [n, n].
        occupied: number of doubly occupied orbitals.
        charges: Mulliken charges of the atoms [atoms, e].
        dipole: about the origin of the coordinates, for a neutral molecule about any [3, e·Å].
    """

    fock: NDArray[np.float64]
    overlap: NDArray[np.float64]
    energies: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    occupied: int
    charges: NDArray[np.float64]
    dipole: NDArray[np.float64]

    @property
    def homo(self) -> float:
        """Energy of the highest occupied orbital [Hartree]."""
        return float(self.energies[self.occupied - 1])

    @property
    def lumo(self) -> float:
        """Energy of the lowest empty orbital [Hartree]; NaN where the basis has none."""
        return float(self.energies[self.occupied]) if self.occupied < len(self.energies) else float("nan")

    @property
    def density(self) -> NDArray[np.float64]:
        """Density matrix 2 C Cᵀ of the occupied orbitals."""
        occupied = self.coefficients[:, : self.occupied]
        return 2.0 * occupied @ occupied.T

    def density_of_states(
        self, width: float = 0.5, points: int = 400
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Levels as Gaussians, from 5 eV below the lowest valence level to 5 eV above the LUMO.

        Args:
            width: standard deviation [eV].
            points: of the axis.

        Returns: energies [eV] and states per eV, both spins.
        """
        levels = HARTREE_EV * self.energies
        valence = levels[(levels > -40.0) & (np.arange(len(levels)) <= self.occupied)]
        axis = np.linspace(valence.min() - 5.0, valence.max() + 5.0, points)
        bells = np.exp(-0.5 * ((axis[:, None] - levels) / width) ** 2) / (width * np.sqrt(2 * np.pi))
        return axis, 2.0 * bells.sum(1)


class FockPredictor:
    """A net that predicts Kohn-Sham matrices, with the integrals that it needs from PySCF.

    Args:
        model: model file, or a net.
        device: e.g. `"cuda"`.
        dtype: precision of the net.

    Raises:
        ConfigError: the model predicts something else.
        MissingExtra: PySCF is not installed.
    """

    def __init__(
        self, model: str | Path | AnyNet, device: str | None = None, dtype: str | torch.dtype | None = None
    ) -> None:
        net = load(model, device=device, dtype=dtype) if isinstance(model, str | Path) else model.eval()
        if tuple(net.outputs) != ("hamiltonian",):
            raise ConfigError(f"the model predicts {', '.join(net.outputs)}, not 'hamiltonian'")
        _pyscf()
        self.net = net
        self.device = next(net.parameters()).device
        config: Any = net.config
        self.basis, self.functional, self.delta = config["basis"], config["functional"], config["delta"]
        self.elements: tuple[str, ...] = tuple(config["elements"])

    def molecule(self, atoms: Atoms) -> Any:
        """PySCF's molecule of some atoms, with the basis set of the model; see `pyscf_molecule`.

        Raises:
            DataError: an open shell, a periodic structure, or atoms that coincide.
            UnknownElement: an element that the model was not built for.
        """
        self._check_elements(atoms.get_chemical_symbols())
        return pyscf_molecule(atoms, self.basis)

    def _check_elements(self, symbols: Iterable[str]) -> None:
        known = self.elements
        if unknown := sorted(set(symbols) - set(known)):
            raise UnknownElement(f"the molecule has {', '.join(unknown)}; the model knows {', '.join(known)}")

    def check(self, molecule: Any) -> None:
        """Refuse a molecule of PySCF that the model can't predict; errors as of `fock`."""
        _check_basis(molecule, self.basis)
        self._check_elements(molecule.atom_pure_symbol(atom) for atom in range(molecule.natm))
        if molecule.spin or molecule.nelectron % 2:
            raise DataError(
                f"the molecule has {molecule.nelectron} electrons, {molecule.spin} of them unpaired; the models know "
                "closed shells only"
            )
        if molecule.cart or molecule.has_ecp():
            raise ConfigError("the molecule has Cartesian orbitals or core potentials; the models know neither")
        if words := closest_atoms(molecule.atom_coords(unit="Angstrom")):
            raise DataError(words)

    def fock(
        self, molecule: Any, initial: Float[NDArray[np.float64], "n n"] | None = None
    ) -> Float[NDArray[np.float64], "n n"]:
        """The predicted matrix [Hartree] of PySCF's molecule.

        Args:
            molecule: PySCF's.
            initial: what `initial_fock` gives for it, where that is there already.

        Raises:
            ConfigError: the molecule has another basis set than the model, Cartesian orbitals or core potentials.
            DataError: an open shell, atoms that coincide, or a predicted matrix that is not finite.
            UnknownElement: an element that the model was not built for.
        """
        self.check(molecule)
        graph = GraphData(
            pos=torch.from_numpy(molecule.atom_coords(unit="Angstrom")),
            atomic_number=torch.from_numpy(molecule.atom_charges().astype(np.int64)),
        )
        if self.delta:
            initial = self.initial_fock(molecule) if initial is None else initial
            graph.initial_hamiltonian = torch.from_numpy(initial.reshape(-1))
        graph = self.net.spec.build(graph)
        with torch.no_grad():
            entries = self.net(graph.to(self.device))["hamiltonian"].cpu()
        if not bool(torch.isfinite(entries).all()):
            raise DataError("the model predicts a matrix with numbers that are not finite for this molecule")
        size = molecule.nao_nr()
        found: NDArray[np.float64] = entries.view(size, size).numpy()
        return found

    def initial_fock(self, molecule: Any) -> Float[NDArray[np.float64], "n n"]:
        """Matrix of the superposition of atomic densities (`minao`), with the functional of the model."""
        field = mean_field(molecule, self.functional)
        fock: NDArray[np.float64] = np.asarray(field.get_fock(dm=field.get_init_guess(key="minao")))
        return fock

    def report(self, molecule: Any, initial: Float[NDArray[np.float64], "n n"] | None = None) -> OrbitalReport:
        """Orbitals and what follows from them, of PySCF's molecule; arguments as of `fock`."""
        fock, overlap = self.fock(molecule, initial), molecule.intor_symmetric("int1e_ovlp")
        orbitals = generalised_eigenproblem(torch.from_numpy(fock), torch.from_numpy(overlap))
        occupied = molecule.nelectron // 2
        coefficients = orbitals.coefficients.numpy()
        density = 2.0 * coefficients[:, :occupied] @ coefficients[:, :occupied].T
        return OrbitalReport(
            fock, overlap, orbitals.energies.numpy(), coefficients, occupied, *_charges(molecule, density, overlap)
        )

    def total_energy(self, molecule: Any) -> float:
        """Energy [Hartree] of the density of the predicted orbitals: one evaluation, no iteration."""
        return self.energy_of(molecule, self.report(molecule))

    def energy_of(self, molecule: Any, report: OrbitalReport) -> float:
        """The same [Hartree], where the orbitals are there already."""
        return float(mean_field(molecule, self.functional).energy_tot(dm=report.density))


@dataclass(frozen=True)
class Guess:
    """Density to start an SCF from, and why it is this one.

    Args:
        density: density matrix [n, n].
        taken: `"prediction"` or `"minao"`.
        shared: how far the predicted occupied orbitals lie in the occupied space of the initial matrix: the square of
            the smallest cosine between the two spaces, 1 where they are equal, 0 where an orbital is outside.
    """

    density: Float[NDArray[np.float64], "n n"]
    taken: Literal["prediction", "minao"]
    shared: float


def choose_guess(model: str | Path | FockPredictor, molecule: Any) -> Guess:
    """The predicted density, or `minao`'s where the prediction occupies orbitals that converged ones would not.

    The errors of a predicted matrix can add up to a false level below the LUMO. Its orbital is then occupied instead of
    a true one, the energy is Hartrees too high, and an SCF needs cycles to undo it. That is seen without the density's
    Fock matrix: converged occupied orbitals are those of the initial matrix (of the `minao` density) turned by small
    angles, up to 12° in 40 small molecules. A prediction that turns one by more than 15° (`Guess.shared` < 0.93) gives
    way to `minao`'s density.

    No Fock matrix is built where the model adds to the initial one (`delta`), which it needs anyway; one otherwise. A
    molecule whose `minao` orbitals are themselves in a false order gets `minao`'s density, whatever the prediction.

    Args:
        model: model file or predictor.
        molecule: PySCF's molecule, of a closed shell, with the basis set of the model.
    """
    predictor = model if isinstance(model, FockPredictor) else FockPredictor(model)
    predictor.check(molecule)
    initial = predictor.initial_fock(molecule)
    report = predictor.report(molecule, initial)
    orbitals = generalised_eigenproblem(torch.from_numpy(initial), torch.from_numpy(report.overlap))
    shared = shared_space(orbitals.coefficients.numpy(), report.coefficients, report.overlap, report.occupied)
    if shared < _SHARED:
        density = np.asarray(mean_field(molecule, predictor.functional).get_init_guess(key="minao"))
        return Guess(density, "minao", shared)
    return Guess(report.density, "prediction", shared)


def shared_space(
    first: Float[NDArray[np.float64], "n n"],
    second: Float[NDArray[np.float64], "n n"],
    overlap: Float[NDArray[np.float64], "n n"],
    occupied: int,
) -> float:
    """Square of the smallest cosine between the occupied spaces of two sets of orbitals (columns); see `Guess`."""
    cosines = np.linalg.svd(first[:, :occupied].T @ overlap @ second[:, :occupied], compute_uv=False)
    return float(cosines.min() ** 2)


def initial_guess(
    model: str | Path | FockPredictor, molecule: Any, guard: bool = True
) -> Float[NDArray[np.float64], "n n"]:
    """Density matrix to start an SCF from: `mf.kernel(dm0=initial_guess(model, mf.mol))`.

    A prediction that occupies wrong orbitals gives way to the density of `minao`, with a warning; see `choose_guess`.

    Args:
        model: model file or predictor.
        molecule: PySCF's molecule, of a closed shell, with the basis set of the model.
        guard: look for such predictions; otherwise the prediction is taken as it is.
    """
    if not guard:
        predictor = model if isinstance(model, FockPredictor) else FockPredictor(model)
        return predictor.report(molecule).density
    guess = choose_guess(model, molecule)
    if guess.taken == "minao":
        warnings.warn(
            f"of an orbital that the predicted matrix occupies, only {100 * guess.shared:.0f} % lie in the occupied "
            f"space of the initial matrix (expected {100 * _SHARED:.0f} or more), so the SCF starts from 'minao'; "
            "guard=False takes the prediction",
            GeomlibWarning,
            stacklevel=2,
        )
    return guess.density


def pyscf_molecule(atoms: Atoms, basis: str) -> Any:
    """PySCF's molecule of some atoms; charge from `atoms.info["charge"]`.

    Args:
        atoms: a molecule.
        basis: basis set.

    Raises:
        DataError: an open shell, a periodic structure, or atoms that coincide.
        ConfigError: neither geomlib nor PySCF knows the basis set for an element.
        MissingExtra: PySCF is not installed.
    """
    gto = _pyscf()
    if atoms.pbc.any():
        raise DataError("the structure is periodic; orbitals are those of a molecule")
    charge = int(atoms.info.get("charge", 0))
    electrons = int(atoms.numbers.sum()) - charge
    if electrons % 2 or electrons < 2 or int(atoms.info.get("spin", 1)) != 1:
        raise DataError(
            f"{atoms.get_chemical_formula()} with charge {charge} has {electrons} electrons"
            f"{_multiplicity(atoms)}; the models know closed shells only"
        )
    if words := closest_atoms(atoms.positions):
        raise DataError(words)
    for number in set(atoms.numbers.tolist()):
        shells_of(basis, number)  # raises where the basis set has no such element
    rows = list(zip(atoms.get_chemical_symbols(), atoms.positions.tolist(), strict=True))
    return gto.M(atom=rows, basis=basis, charge=charge, unit="Angstrom", verbose=0)


def _multiplicity(atoms: Atoms) -> str:
    multiplicity = int(atoms.info.get("spin", 1))
    return f" and spin multiplicity {multiplicity}" if multiplicity != 1 else ""


def mean_field(molecule: Any, functional: str, level: int = 3) -> Any:
    """Restricted Kohn-Sham calculation.

    Args:
        molecule: PySCF's.
        functional: in PySCF's words.
        level: of the grid.
    """
    _pyscf()
    from pyscf import dft

    field = dft.RKS(molecule)
    field.xc, field.grids.level, field.verbose = functional, level, 0
    return field


def write_cubes(molecule: Any, report: OrbitalReport, begin: str, points: int = 60) -> list[Path]:
    """Write HOMO and LUMO as cube files `<begin>-homo.cube` and `<begin>-lumo.cube`; returns their paths."""
    from pyscf.tools import cubegen

    files = []
    for name, number in (("homo", report.occupied - 1), ("lumo", report.occupied)):
        if number < len(report.energies):
            files.append(Path(f"{begin}-{name}.cube"))
            cubegen.orbital(molecule, str(files[-1]), report.coefficients[:, number], nx=points, ny=points, nz=points)
    return files


def _charges(
    molecule: Any, density: NDArray[np.float64], overlap: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mulliken charges [e] and dipole [e·Å]."""
    population = np.einsum("ij,ji->i", density, overlap)
    charges = molecule.atom_charges().astype(np.float64)
    for atom, (_, _, begin, end) in enumerate(molecule.aoslice_by_atom()):
        charges[atom] -= population[begin:end].sum()
    positions = molecule.atom_coords(unit="Bohr")
    electronic = np.einsum("xij,ji->x", molecule.intor_symmetric("int1e_r", comp=3), density)
    dipole = molecule.atom_charges() @ positions - electronic
    return charges, BOHR_ANGSTROM * dipole


def _check_basis(molecule: Any, basis: str) -> None:
    if not isinstance(molecule.basis, str) or molecule.basis.lower().replace("-", "") != basis.lower().replace("-", ""):
        raise ConfigError(f"the molecule has the basis set {molecule.basis}, the model knows '{basis}'")


def _pyscf() -> Any:
    try:
        from pyscf import gto
    except ImportError:
        raise MissingExtra("pyscf", "dft", "the overlap of atomic orbitals") from None
    return gto
