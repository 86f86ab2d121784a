"""Chemical symbols by atomic number, for layers that must not depend on ASE."""

from collections.abc import Sequence

from geomlib.errors import UnknownElement, nearest

__all__ = ["SYMBOLS", "atomic_numbers"]

# fmt: off
SYMBOLS: tuple[str, ...] = (
    "X", "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar",
    "K", "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr",
    "Rb", "Sr", "Y", "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Xe",
    "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf",
    "Ta", "W", "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Th",
    "Pa", "U", "Np", "Pu", "Am", "Cm", "Bk", "Cf", "Es", "Fm", "Md", "No", "Lr", "Rf", "Db", "Sg", "Bh", "Hs",
    "Mt", "Ds", "Rg", "Cn", "Nh", "Fl", "Mc", "Lv", "Ts", "Og",
)
# fmt: on
"""`SYMBOLS[atomic_number]`; position 0 is no element."""

_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS)}


def atomic_numbers(symbols: Sequence[str]) -> list[int]:
    """Atomic numbers of chemical symbols.

    Raises:
        UnknownElement: a symbol that no element has.
    """
    for symbol in symbols:
        if _NUMBERS.get(symbol, 0) == 0:
            raise UnknownElement(f"'{symbol}' is no chemical element{nearest(symbol, SYMBOLS[1:])}")
    return [_NUMBERS[symbol] for symbol in symbols]
