"""What Kohn-Sham matrices were made with: the functional and the basis set that a store says, beside those of a net."""

from geomlib.data.stores import Store
from geomlib.errors import ConfigError

__all__ = ["check_theory", "plain_basis", "plain_functional"]

_SAME_FUNCTIONAL = {
    "b3lypg": "b3lyp",
    "b3lypvwnrpa": "b3lyp",
    "b3lypv5": "b3lyp5",
    "b3lypvwn5": "b3lyp5",
    "pbe,pbe": "pbe",
    "pbe1pbe": "pbe0",
    "pbeh": "pbe0",
}
"""Another name → the one to compare; the left ones of PySCF are the same mixture of libxc as the right ones there."""


def plain_functional(name: str) -> str:
    """A functional's name for comparison: lower case, without blanks, `-` and `_`, and one for those of one mixture.

    `b3lyp` is what PySCF 2.3 and later call so (correlation VWN_RPA, as in Gaussian; also `b3lypg`); `b3lyp5`, also
    `B3LYPV5`, has VWN5, which older versions of PySCF called `b3lyp`. The two differ by mHartree and are not the same.
    A file whose matrices an older PySCF made with the word `b3lyp` should say `b3lyp5`. A remark in brackets behind the
    name, `b3lyp5 (with VWN5)`, plays no part.
    """
    plain = _joined(name.split(" (")[0])
    return _SAME_FUNCTIONAL.get(plain, plain)


def plain_basis(name: str) -> str:
    """A basis set's name for comparison: lower case, without blanks, `-` and `_`, as PySCF reads it."""
    return _joined(name)


def _joined(name: str) -> str:
    return "".join(sign for sign in name.lower() if sign not in "-_ ")


def check_theory(store: Store, basis: str, functional: str) -> list[str]:
    """Refuse matrices of another functional or basis set than that of a net.

    Names are compared as `plain_functional` and `plain_basis` have them. What a store does not say is not guessed: HDF5
    files written elsewhere may lack the attribute `xc`, and graphs in memory say nothing.

    Args:
        store: graphs with matrices.
        basis: of the net.
        functional: of the net.

    Returns: what was not compared, one line for each part of the store that doesn't say it.

    Raises:
        ConfigError: they differ; says which file, and both names.
    """
    silent = []
    for member in store.members:
        where = str(getattr(member, "path", "") or type(member).__name__)
        for what, said, wanted, plain in (
            ("basis set", member.basis, basis, plain_basis),
            ("functional", member.functional, functional, plain_functional),
        ):
            if not said:
                silent.append(f"{where}: does not say the {what} of its matrices, so that of the net is not compared")
            elif plain(said) != plain(wanted):
                raise ConfigError(
                    f"{where}: its matrices were made with the {what} '{said}', the net is for '{wanted}'"
                    f"{_hint(said, wanted)}: set model.net.{'basis' if what == 'basis set' else 'functional'}, or use "
                    "other data"
                )
    return silent


def _hint(said: str, wanted: str) -> str:
    if {plain_functional(said), plain_functional(wanted)} != {"b3lyp", "b3lyp5"}:
        return ""
    return " ('b3lyp' has VWN_RPA as in PySCF 2.3 and later, 'b3lyp5' has VWN5 as in older ones)"
