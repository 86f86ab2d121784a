"""What orbitals look like: surfaces of equal amplitude, drawn with the atoms."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from geomlib.apply.orbitals.fock import BOHR_ANGSTROM, HARTREE_EV, OrbitalReport

__all__ = ["isosurface", "plot_frontier"]

_CORNERS = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]])
_TETRAHEDRA = ((0, 1, 2, 6), (0, 2, 3, 6), (0, 3, 7, 6), (0, 7, 4, 6), (0, 4, 5, 6), (0, 5, 1, 6))
"""Corners of the six tetrahedra of a cube that share its diagonal from corner 0 to 6."""

_COLORS = {"H": "#f4f4f4", "C": "#4a4f57", "N": "#3a63c8", "O": "#cf3a34", "F": "#4fa64f", "S": "#d2b23a"}
_LOBES = ("#2f6fb4", "#d1622b")
_MARGIN, _STEP = 2.5, 0.28  # Å
_BLOCK = 20_000  # points of a grid whose orbitals are evaluated at once


def isosurface(values: Float[NDArray[np.float64], "x y z"], level: float) -> Float[NDArray[np.float64], "n 3 3"]:
    """Triangles of the surface on which a function on a grid has a value, in units of the grid's steps.

    Each cube of the grid is cut into six tetrahedra, in which the function is linear (marching tetrahedra). Normals
    point to where the function is smaller.

    Args:
        values: on the points of the grid.
        level: of the surface.
    """
    counts = np.array(values.shape) - 1
    base = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1).reshape(-1, 3)
    corner = np.stack([values[tuple((base + offset).T)] for offset in _CORNERS], axis=1)
    crossed = (corner.min(1) < level) & (corner.max(1) >= level)
    base, corner = base[crossed], corner[crossed]
    found = []
    for members in _TETRAHEDRA:
        heights = corner[:, members] - level
        points = base[:, None] + _CORNERS[list(members)]
        above = (heights >= 0) @ np.array([1, 2, 4, 8])
        for code in range(1, 15):
            rows = np.flatnonzero(above == code)
            inside = [k for k in range(4) if code >> k & 1]
            outside = [k for k in range(4) if not code >> k & 1]
            edges = [(i, o) for i in inside for o in outside]
            crossings = [_crossing(points[rows], heights[rows], *edge) for edge in edges]
            outwards = points[rows][:, outside].mean(1) - points[rows][:, inside].mean(1)
            if len(edges) == 3:
                found.append(_facing(np.stack(crossings, axis=1), outwards))
            else:  # a quadrangle: its corners in a circle are (i0, o0), (i0, o1), (i1, o1), (i1, o0)
                first, second, fourth, third = crossings
                halves = (np.stack([first, second, third], axis=1), np.stack([first, third, fourth], axis=1))
                found += [_facing(half, outwards) for half in halves]
    return np.concatenate(found)


def _facing(triangles: NDArray[np.float64], outwards: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners in such an order that the normals point the way given."""
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    wrong = (normals * outwards).sum(1) < 0
    triangles[wrong] = triangles[wrong][:, ::-1]
    return triangles


def _crossing(points: NDArray[Any], heights: NDArray[np.float64], i: int, o: int) -> NDArray[np.float64]:
    share = (heights[:, i] / (heights[:, i] - heights[:, o]))[:, None]
    crossing: NDArray[np.float64] = points[:, i] * (1.0 - share) + points[:, o] * share
    return crossing


def plot_frontier(molecule: Any, report: OrbitalReport, path: str | Path, amplitude: float = 0.05) -> Path:
    """Draw HOMO and LUMO beside each other as surfaces of both signs; returns the file.

    Args:
        molecule: PySCF's.
        report: its orbitals.
        path: picture to write.
        amplitude: of the surfaces [Bohr^(−3/2)].
    """
    from matplotlib.figure import Figure

    positions = molecule.atom_coords(unit="Angstrom")
    centre = positions.mean(0)
    _, _, axes_of_inertia = np.linalg.svd(positions - centre, full_matrices=True)
    turned = (positions - centre) @ axes_of_inertia.T  # longest extent first, shortest last
    low = turned.min(0) - _MARGIN
    counts = np.ceil((turned.max(0) + _MARGIN - low) / _STEP).astype(int) + 1
    axes = [low[k] + _STEP * np.arange(counts[k]) for k in range(3)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) @ axes_of_inertia + centre
    shown = [k for k in (report.occupied - 1, report.occupied) if k < len(report.energies)]
    amplitudes = _evaluate(molecule, report.coefficients[:, shown], grid)
    figure = Figure(figsize=(3.6 * len(shown), 3.6), layout="constrained")
    for column, number in enumerate(shown):
        scene: Any = figure.add_subplot(1, len(shown), column + 1, projection="3d")
        _draw(scene, molecule, turned, amplitudes[:, column].reshape(counts), low, amplitude)
        name = "HOMO" if number < report.occupied else "LUMO"
        energy = f"{HARTREE_EV * report.energies[number]:.2f}".replace("-", "−")
        scene.set_title(f"{name}, {energy} eV", fontsize=10, y=0.98)
    figure.savefig(path, dpi=160)
    return Path(path)


def _evaluate(molecule: Any, coefficients: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    parts = [
        molecule.eval_gto("GTOval_sph", points[begin : begin + _BLOCK] / BOHR_ANGSTROM) @ coefficients
        for begin in range(0, len(points), _BLOCK)
    ]
    return np.concatenate(parts)


def _draw(
    scene: Any, molecule: Any, turned: NDArray[np.float64], values: NDArray[np.float64], low: NDArray[np.float64],
    amplitude: float,
) -> None:  # fmt: skip
    from matplotlib.colors import LightSource
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    drawn = [turned]
    for sign, color in zip((1.0, -1.0), _LOBES, strict=True):
        triangles = low + _STEP * isosurface(sign * values, amplitude)
        if len(triangles) == 0:
            continue
        drawn.append(triangles.reshape(-1, 3))
        light = LightSource(azdeg=225, altdeg=50)
        surface = Poly3DCollection(triangles, facecolors=color, alpha=0.55, linewidths=0, shade=True, lightsource=light)
        scene.add_collection3d(surface)
    symbols = [molecule.atom_pure_symbol(atom) for atom in range(molecule.natm)]
    for i in range(molecule.natm):
        for j in range(i):
            if np.linalg.norm(turned[i] - turned[j]) < (1.25 if "H" in (symbols[i], symbols[j]) else 1.75):
                scene.plot(*turned[[i, j]].T, color="#30343a", linewidth=2.0)
    colors = [_COLORS.get(symbol, "#9a6fb0") for symbol in symbols]
    sizes = [26 if symbol == "H" else 60 for symbol in symbols]
    scene.scatter(*turned.T, s=sizes, c=colors, edgecolors="#30343a", linewidths=0.8, depthshade=False)
    points = np.concatenate(drawn)
    middle, half = 0.5 * (points.max(0) + points.min(0)), 0.5 * (points.max(0) - points.min(0)).max()
    for k, name in enumerate("xyz"):
        getattr(scene, f"set_{name}lim")(middle[k] - half, middle[k] + half)
    scene.set_box_aspect((1, 1, 1), zoom=1.25)
    scene.view_init(elev=35, azim=-60)
    scene.set_axis_off()
