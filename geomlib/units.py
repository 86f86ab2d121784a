"""Units at the border: parse a unit string and convert to what geomlib uses inside.

Inside: Å, eV, eV/Å, eV/Å³, e·Å, K, fs, and Hartree for Hamiltonians (CODATA 2018). A unit is a product of named
units with integer powers, e.g. `"kcal/mol/Å"`, `"eV/A^3"`, `"Hartree/Bohr"`, `"e*Å"`.
"""

import re

from geomlib.errors import UnitError, nearest

__all__ = ["KNOWN_UNITS", "conversion_factor", "parse_unit"]

_EV = 1.0
_HARTREE = 27.211386245988
_BOHR = 0.529177210903
_MOL = 6.02214076e23
_JOULE = 1.0 / 1.602176634e-19
_AMU_FS2_A2 = 103.642696562  # 1 u·Å²/fs² in eV

# name -> (value in internal units, dimension as {base: power})
KNOWN_UNITS: dict[str, tuple[float, dict[str, int]]] = {
    "1": (1.0, {}),
    "eV": (_EV, {"energy": 1}),
    "meV": (1e-3, {"energy": 1}),
    "keV": (1e3, {"energy": 1}),
    "Hartree": (_HARTREE, {"energy": 1}),
    "mHartree": (_HARTREE * 1e-3, {"energy": 1}),
    "Ry": (_HARTREE / 2, {"energy": 1}),
    "J": (_JOULE, {"energy": 1}),
    "kJ": (_JOULE * 1e3, {"energy": 1}),
    "cal": (_JOULE * 4.184, {"energy": 1}),
    "kcal": (_JOULE * 4184.0, {"energy": 1}),
    "mol": (_MOL, {}),
    "Å": (1.0, {"length": 1}),
    "nm": (10.0, {"length": 1}),
    "pm": (0.01, {"length": 1}),
    "Bohr": (_BOHR, {"length": 1}),
    "m": (1e10, {"length": 1}),
    "cm": (1e8, {"length": 1}),
    "fs": (1.0, {"time": 1}),
    "ps": (1e3, {"time": 1}),
    "s": (1e15, {"time": 1}),
    "K": (1.0, {"temperature": 1}),
    "e": (1.0, {"charge": 1}),
    "Debye": (0.20819433270935603, {"charge": 1, "length": 1}),
    "u": (_AMU_FS2_A2, {"energy": 1, "time": 2, "length": -2}),
    "Pa": (_JOULE * 1e-30, {"energy": 1, "length": -3}),
    "kPa": (_JOULE * 1e-27, {"energy": 1, "length": -3}),
    "MPa": (_JOULE * 1e-24, {"energy": 1, "length": -3}),
    "GPa": (_JOULE * 1e-21, {"energy": 1, "length": -3}),
    "bar": (_JOULE * 1e-25, {"energy": 1, "length": -3}),
    "kbar": (_JOULE * 1e-22, {"energy": 1, "length": -3}),
}

_ALIASES = {
    "A": "Å",
    "Angstrom": "Å",
    "angstrom": "Å",
    "Ang": "Å",
    "\u212b": "Å",  # the Angstrom sign, another code point than the letter
    "Ha": "Hartree",
    "hartree": "Hartree",
    "Eh": "Hartree",
    "bohr": "Bohr",
    "a0": "Bohr",
    "a.u.": "Hartree",
    "D": "Debye",
    "debye": "Debye",
    "ev": "eV",
    "amu": "u",
    "": "1",
    "-": "1",
    "none": "1",
    "dimensionless": "1",
}

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_FACTOR = re.compile(r"(?P<name>[^\d^*/]+|1)(?:\^?(?P<power>-?\d+))?")


def parse_unit(unit: str) -> tuple[float, dict[str, int]]:
    """Value of one `unit` in internal units, and its dimension.

    Args:
        unit: e.g. `"kcal/mol/Å"`. `""`, `"-"` and `"1"` are dimensionless.

    Returns:
        The factor and the powers of the base dimensions (zero powers left out).

    Raises:
        UnitError: the string can't be read or names an unknown unit.
    """
    text = unit.strip().translate(_SUPERSCRIPTS).replace("·", "*").replace("**", "^").replace(" ", "")
    value, dimension, sign = 1.0, {}, 1  # type: float, dict[str, int], int
    for token in re.split(r"([*/])", text) if text not in _ALIASES else [text]:
        if token in "*/" and token:
            sign = 1 if token == "*" else -1
            continue
        name, power = token, 1
        if token not in _ALIASES:
            match = _FACTOR.fullmatch(token)
            if match is None:
                raise UnitError(f"unit '{unit}' can't be read at '{token}'; expected a form such as 'eV/Å^3'")
            name, power = match["name"], int(match["power"] or 1)
        name = _ALIASES.get(name, name)
        if name not in KNOWN_UNITS:
            raise UnitError(f"unit '{unit}': '{name}' is unknown{nearest(name, KNOWN_UNITS)}")
        base, powers = KNOWN_UNITS[name]
        value *= base ** (sign * power)
        for key, exponent in powers.items():
            dimension[key] = dimension.get(key, 0) + sign * power * exponent
    return value, {key: exponent for key, exponent in dimension.items() if exponent}


def conversion_factor(source: str, target: str) -> float:
    """Multiply a number in `source` by this to have it in `target`.

    Args:
        source: unit of the number.
        target: unit wanted.

    Raises:
        UnitError: the two are of different dimension, or one can't be read.
    """
    source_value, source_dimension = parse_unit(source)
    target_value, target_dimension = parse_unit(target)
    if source_dimension != target_dimension:
        raise UnitError(f"'{source}' can't be converted to '{target}': {source_dimension} is not {target_dimension}")
    return source_value / target_value
