"""How far the members of a committee disagree: the model deviation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomlib.errors import ConfigError, DataError

__all__ = ["DEVIATION_COLUMNS", "ModelDeviation", "model_deviation"]

DEVIATION_COLUMNS = (
    "max_devi_v",
    "min_devi_v",
    "avg_devi_v",
    "max_devi_f",
    "min_devi_f",
    "avg_devi_f",
    "devi_e",
)
"""Columns of `ModelDeviation.columns`, as deepmd-kit orders them: virial and energy [eV/atom], forces [eV/Å]."""


@dataclass(frozen=True, slots=True)
class ModelDeviation:
    """Disagreement of the members about one structure.

    Attributes:
        forces: f_i = √⟨|F_i − ⟨F_i⟩|²⟩ of each atom i, the mean over the members [atoms, eV/Å]. It does not change
            when the structure is rotated.
        virial: standard deviation of each component, divided by the number of atoms [3 3, eV/atom]; NaN where the
            members predict none.
        energy: standard deviation of the energy, divided by the number of atoms [eV/atom].
    """

    forces: NDArray[np.float64]
    virial: NDArray[np.float64]
    energy: float

    def columns(self) -> dict[str, float]:
        """Numbers of the structure, by the names of `DEVIATION_COLUMNS`.

        max, min and avg of the forces are over atoms; of the virial over its nine components, the avg being their
        root mean square.
        """
        return {
            "max_devi_v": float(self.virial.max()),
            "min_devi_v": float(self.virial.min()),
            "avg_devi_v": float(np.sqrt(np.mean(self.virial**2))),
            "max_devi_f": float(self.forces.max()),
            "min_devi_f": float(self.forces.min()),
            "avg_devi_f": float(self.forces.mean()),
            "devi_e": self.energy,
        }


def model_deviation(
    results: Mapping[str, Any], relative: float | None = None, relative_virial: float | None = None
) -> ModelDeviation:
    """Model deviation from the results of a committee's `geomlib.Calculator`.

    Standard deviations are those of the population: divided by the number of members, not by one less.

    Args:
        results: of `Calculator.evaluate`, or its `results` after a calculation.
        relative: ν [eV/Å]; the deviation of each force is divided by |⟨F_i⟩| + ν.
        relative_virial: ν [eV/atom]; each component of the virial's is divided by |⟨W⟩|/atoms + ν, with the norm over
            all components. These two then have no unit.

    Raises:
        ConfigError: the results are not a committee's, or a ν is not positive.
        DataError: there are no atoms.

    Source:
        deepmd-kit, deepmd/infer/model_devi.py; Zeng et al., J. Chem. Phys. 159, 054801 (2023), eqs. 68–72. Its avg of
        the relative virial is over the relative components, as here.
    """
    if "forces_std" not in results:
        raise ConfigError("one model has no deviation; it takes a committee of two or more")
    for name, level in (("relative", relative), ("relative_virial", relative_virial)):
        if level is not None and not level > 0:
            raise ConfigError(f"{name} is {level}; expected a positive level")
    atoms = len(results["forces_std"])
    if atoms == 0:
        raise DataError("a structure without atoms has no deviation")
    forces = np.linalg.norm(results["forces_std"], axis=1)
    virial = np.asarray(results.get("virial_std", np.full((3, 3), np.nan))) / atoms
    if relative is not None:
        forces = forces / (np.linalg.norm(results["forces"], axis=1) + relative)
    if relative_virial is not None and "virial" in results:
        virial = virial / (np.linalg.norm(results["virial"]) / atoms + relative_virial)
    return ModelDeviation(forces, virial, float(results["energy_std"]) / atoms)
