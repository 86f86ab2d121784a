"""The state of a simulation in a file: numbers exactly as they were, in numpy's `.npz` without pickles."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import dict2constraint
from ase.io.jsonio import decode, encode

from geomlib.errors import FileFormatError

__all__ = ["read_state", "restore_generator", "write_state"]

_SCHEMA = 1
_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


def write_state(path: Path, atoms: Atoms, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a state in one step: the file is the old or the new one, never something between.

    Args:
        path: the file.
        atoms: structure; positions, momenta, cell, masses, constraints, and charge and spin of `info` are kept.
        meta: JSON-able, or made of numpy's own types.
        arrays: further arrays.
    """
    info = {key: atoms.info[key] for key in ("charge", "spin") if key in atoms.info}
    constraints = encode([constraint.todict() for constraint in atoms.constraints])
    header = {"schema": _SCHEMA, "info": info, "constraints": constraints, **meta}
    text = json.dumps(header, default=_plain).encode()
    contents: dict[str, Any] = {
        "header": np.frombuffer(text, dtype=np.uint8),
        "numbers": atoms.numbers,
        "positions": atoms.positions,
        "cell": np.array(atoms.cell),
        "pbc": atoms.pbc,
        "masses": atoms.get_masses(),
        "momenta": atoms.get_momenta(),
        **arrays,
    }
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        np.savez(file, **contents)
    part.replace(path)


def read_state(path: Path) -> tuple[Atoms, dict[str, Any], dict[str, np.ndarray]]:
    """Inverse of `write_state`: structure, meta and all arrays.

    Raises:
        FileFormatError: there is no such file, or it is damaged or of another schema.
    """
    if not path.is_file():
        raise FileFormatError(f"{path}: does not exist, so there is nothing to resume; begin without resuming")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        meta = json.loads(arrays.pop("header").tobytes())
        if meta["schema"] != _SCHEMA:
            raise FileFormatError(f"{path}: has schema {meta['schema']}, but this geomlib reads {_SCHEMA}")
        structure = {name: arrays[name] for name in ("numbers", "positions", "cell", "pbc", "masses")}
        constraints = [dict2constraint(values) for values in decode(meta["constraints"])]
        atoms = Atoms(**structure, info=meta["info"], constraint=constraints)
        atoms.set_momenta(arrays["momenta"], apply_constraint=False)
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise FileFormatError(f"{path}: is no state of a simulation, or is damaged: {error}") from None
    return atoms, meta, arrays


def restore_generator(state: Mapping[str, Any]) -> np.random.Generator:
    """Random generator in the state that `generator.bit_generator.state` gave.

    Raises:
        FileFormatError: a kind of generator that numpy does not have.
    """
    kind = state.get("bit_generator")
    if kind not in _GENERATORS:
        raise FileFormatError(f"random generator '{kind}' is unknown; known: {', '.join(_GENERATORS)}")
    bits = getattr(np.random, kind)()
    bits.state = state
    return np.random.Generator(bits)


def _plain(value: np.ndarray | np.generic) -> Any:
    """For JSON: numpy's numbers and arrays as Python's own."""
    return value.tolist()
