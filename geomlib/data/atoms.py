"""ASE atoms to graphs and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import voigt_6_to_full_3x3_stress
from torch import Tensor

from geomlib.data.fields import FIELDS, Field, field
from geomlib.data.graph import GraphData
from geomlib.errors import DataError
from geomlib.units import conversion_factor

__all__ = ["from_atoms", "known_keys", "known_labels", "to_atoms"]

_RESULTS = {"atom_energy": "energies"}
"""Field → key of an ASE calculator's results, where the names differ."""

_INFO = {"charge": "charge", "spin_multiplicity": "spin"}


def from_atoms(
    atoms: Atoms,
    fields: Sequence[str] = (),
    where: str = "",
    *,
    keys: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    partial: Sequence[str] = (),
) -> GraphData:
    """Make a graph of a structure.

    Positions are taken as they are (never wrapped), the cell too, whatever its handedness; axes without a lattice
    vector must not be periodic. Charge and spin multiplicity come from `atoms.info["charge"]` and `["spin"]`. A label
    is looked for under its key in `atoms.info`, `atoms.arrays` and the results of `atoms.calc`, where ASE puts
    energies, forces and stress on reading.

    Args:
        atoms: the structure, Å.
        fields: labels to take; all must be there.
        where: what to call the structure in messages, e.g. `"train.extxyz, frame 12"`.
        keys: field → key in `atoms`, where it is not the field's name.
        units: field → unit in `atoms`, where it is not the internal one.
        partial: labels that become NaN where they are missing or not finite.

    Returns:
        `pos`, `atomic_number`, `cell`, `pbc` and the labels, float64, internal units.

    Raises:
        DataError: no atoms, a dummy atom, a label that is missing, of a wrong shape or not finite.
        UnitError: a unit of the wrong dimension.
    """
    where = where or "atoms"
    if len(atoms) == 0:
        raise DataError(f"{where}: there are no atoms")
    numbers = atoms.numbers
    if numbers.min() < 1 or numbers.max() > 118:
        bad = int(np.flatnonzero((numbers < 1) | (numbers > 118))[0])
        raise DataError(f"{where}: atom {bad} has the atomic number {numbers[bad]}; expected 1 to 118")
    length = conversion_factor(units["pos"], "Å") if units and "pos" in units else 1.0
    graph = GraphData(
        pos=torch.from_numpy(np.array(atoms.positions, dtype=np.float64) * length),
        atomic_number=torch.from_numpy(numbers.astype(np.int64)),
        cell=torch.from_numpy(np.array(atoms.cell.array, dtype=np.float64) * length).unsqueeze(0),
        pbc=torch.from_numpy(np.array(atoms.pbc, dtype=bool)).unsqueeze(0),
    )
    for name in ("pos", "cell"):
        _require_finite(graph[name], FIELDS[name], name, where, name in partial)
    for name, key in _INFO.items():
        key = (keys or {}).get(name, key)
        if key in atoms.info and name not in fields:
            graph[name] = _integer(atoms.info[key], name, key, where)
    for name in fields:
        key = (keys or {}).get(name, _INFO.get(name, name))
        graph[name] = _label(atoms, field(name), key, where, (units or {}).get(name), name in partial)
    return graph


def _integer(value: Any, name: str, key: str, where: str) -> Tensor:
    number = np.asarray(value)
    if number.size != 1 or number.dtype.kind not in "iuf" or not float(number.item()).is_integer():
        raise DataError(f"{where}: '{key}' is {value!r}; {name} must be one whole number")
    return torch.tensor([int(number.item())])


def _find(atoms: Atoms, name: str, key: str) -> Any:
    """The value under `key`, or None."""
    if key in atoms.info:
        return atoms.info[key]
    if key in atoms.arrays:
        return atoms.arrays[key]
    results = atoms.calc.results if atoms.calc is not None else {}
    return results.get(_RESULTS.get(key, key))


def known_labels(atoms: Atoms) -> list[str]:
    """The fields among energy, forces, stress and virial that a structure has under their own names."""
    return [name for name in ("energy", "forces", "stress", "virial") if _find(atoms, name, name) is not None]


def known_keys(atoms: Atoms) -> list[str]:
    """Keys under which a label could be found."""
    results = list(atoms.calc.results) if atoms.calc is not None else []
    return sorted({*atoms.info, *atoms.arrays, *results} - {"numbers", "positions"})


def _label(atoms: Atoms, row: Field, key: str, where: str, unit: str | None, partial: bool) -> Tensor:
    value = _find(atoms, row.name, key)
    items = len(atoms) if row.level == "node" else 1
    if value is None:
        if not partial:
            raise DataError(
                f"{where}: no label '{key}' for the field '{row.name}'; the keys there are {known_keys(atoms)}. "
                "Name another key, leave the field out, or allow gaps by listing it as partial"
            )
        return torch.full((items, *(width or 1 for width in row.shape)), torch.nan, dtype=row.torch_dtype())
    if row.dtype == "int64":
        return _integer(value, row.name, key, where)
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{where}: '{key}' is not a number or an array of numbers") from None
    if row.shape == (3, 3) and array.size == 6 * items and row.kind == "symmetric2":
        array = voigt_6_to_full_3x3_stress(array.reshape(6))
    shape = (items, *(width if width is not None else -1 for width in row.shape))
    if row.name == "hessian":
        shape = (items, items, 3, 3)
        if array.size == (3 * items) ** 2 and array.ndim != 4:
            array = array.reshape(items, 3, items, 3).swapaxes(1, 2)
    try:
        tensor = torch.from_numpy(np.ascontiguousarray(array).reshape(shape).copy())
    except ValueError:
        raise DataError(
            f"{where}: '{key}' has shape {list(array.shape)}, expected {[items, *row.shape]} for the field '{row.name}'"
        ) from None
    _require_finite(tensor, row, key, where, partial)
    if unit is not None and row.unit != "card":
        tensor = tensor * conversion_factor(unit, row.unit)
    return tensor


def _require_finite(value: Tensor, row: Field, key: str, where: str, partial: bool) -> None:
    if not partial and not bool(torch.isfinite(value).all()):
        item = int((~torch.isfinite(value)).reshape(len(value), -1).any(1).nonzero()[0])
        place = f" at atom {item}" if row.level == "node" else ""
        raise DataError(f"{where}: '{key}' is NaN or infinite{place}; mend or remove that frame")


def to_atoms(graph: GraphData) -> Atoms:
    """Make ASE atoms of one graph; energy, forces, stress, dipole and atom energies go into a calculator.

    Args:
        graph: one graph, internal units; structure that a spec built is left behind.

    Raises:
        DataError: a batch.
    """
    if graph.num_graphs != 1:
        raise DataError(f"to_atoms takes one graph, got a batch of {graph.num_graphs}: use batch.to_data_list()")
    values = {name: graph[name].detach().cpu().numpy() for name in graph.keys() if name in FIELDS}  # noqa: SIM118
    atoms = Atoms(
        numbers=values["atomic_number"],
        positions=values["pos"].astype(np.float64),
        cell=values["cell"][0].astype(np.float64) if "cell" in values else None,
        pbc=values["pbc"][0] if "pbc" in values else False,
    )
    for name, key in _INFO.items():
        if name in values:
            atoms.info[key] = int(values[name][0])
    results: dict[str, Any] = {}
    for name in ("energy", "dipole"):
        if name in values:
            results[name] = float(values[name][0]) if name == "energy" else values[name][0]
    if "forces" in values:
        results["forces"] = values["forces"]
    if "atom_energy" in values:
        results["energies"] = values["atom_energy"]
    if "stress" in values:
        results["stress"] = values["stress"][0].reshape(9)[[0, 4, 8, 5, 2, 1]]
    if "virial" in values:
        atoms.info["virial"] = values["virial"][0]
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms
