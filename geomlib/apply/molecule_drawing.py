"""Molecules as SVG with a number on each atom, by RDKit."""

import re
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomlib.data.molecules import parse_molecule

__all__ = ["color_of", "draw_atoms"]

_NEGATIVE, _ZERO, _POSITIVE = (np.array(color) for color in ((0.16, 0.44, 0.78), (1.0, 1.0, 1.0), (0.85, 0.34, 0.16)))


def color_of(value: float, limit: float) -> tuple[float, float, float]:
    """Blue below zero, orange above, white at zero; full colour at ± `limit`."""
    share = float(np.clip(value / limit if limit > 0 else 0.0, -1, 1))
    mixed = _ZERO + abs(share) ** 0.8 * ((_POSITIVE if share > 0 else _NEGATIVE) - _ZERO)
    return float(mixed[0]), float(mixed[1]), float(mixed[2])


def draw_atoms(
    smiles: str,
    values: Sequence[float] | NDArray[np.float64],
    limit: float | None = None,
    width: int = 320,
    height: int = 240,
    title: str = "",
) -> str:
    """The molecule with every atom on a disc of the colour of its value, as an `<svg>` element.

    Args:
        smiles: of the molecule.
        values: of its atoms, in RDKit's order.
        limit: value of the full colour; the largest magnitude if not given.
        width: of the drawing.
        height: of the drawing.
        title: for those who can't see it.

    Raises:
        DataError: it is no molecule.
    """
    from rdkit.Chem.Draw import rdMolDraw2D

    molecule = parse_molecule(smiles)
    numbers = np.asarray(values, dtype=np.float64)
    reach = float(np.abs(numbers).max(initial=0.0)) if limit is None else limit
    drawer = rdMolDraw2D.MolDraw2DSVG(width, height)
    options: Any = drawer.drawOptions()
    options.clearBackground = False
    options.fillHighlights = True
    options.continuousHighlight = False
    options.padding = 0.09
    options.bondLineWidth = 1.4
    options.fixedBondLength = 34.0
    options.minFontSize = 9
    options.useBWAtomPalette()
    seen = [k for k, number in enumerate(numbers) if reach > 0 and abs(number) > 0.02 * reach]
    rdMolDraw2D.PrepareAndDrawMolecule(
        drawer,
        molecule,
        highlightAtoms=seen,
        highlightAtomColors={k: color_of(float(numbers[k]), reach) for k in seen},
        highlightAtomRadii=dict.fromkeys(seen, 0.42),
        highlightBonds=[],
    )
    drawer.FinishDrawing()
    text = drawer.GetDrawingText()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    label = escape(title or smiles, quote=True)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
    return re.sub(r"<svg[^>]*>", lambda _: head, text, count=1).strip()
