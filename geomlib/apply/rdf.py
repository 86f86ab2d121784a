"""Radial distribution functions of trajectories."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from geomlib.errors import DataError
from geomlib.graphs.radius import neighbor_list

__all__ = ["RadialDistribution", "radial_distributions"]


@dataclass(frozen=True, slots=True)
class RadialDistribution:
    """How often two elements stand at a distance, averaged over frames.

    Attributes:
        pair: the two elements.
        r: middles of the bins [Å].
        values: g(r), which tends to 1, if `periodic`; else the radial number density of the second element around
            an atom of the first [1/Å], whose integral is a coordination number.
        coordination: mean number of atoms of the second element within the upper edge of each bin.
        periodic: whether all frames fill space, so that a mean density exists.
    """

    pair: tuple[str, str]
    r: NDArray[np.float64]
    values: NDArray[np.float64]
    coordination: NDArray[np.float64]
    periodic: bool


def radial_distributions(
    frames: Iterable[Atoms], cutoff: float = 6.0, bins: int = 120, pairs: Sequence[tuple[str, str]] = ()
) -> list[RadialDistribution]:
    """Radial distribution functions by pair of elements, over all periodic images.

    With n_ab(r) dr the mean number of b atoms between r and r+dr around an a atom, a bin of the result holds
    n_ab for structures that are open in some direction, and g_ab = n_ab / (4πr² dr · N_b/V) for periodic ones, with
    the volume of the shell taken exactly. Images are followed as far as the cutoff asks, so the cutoff may exceed
    half of the cell.

    Args:
        frames: structures with the same elements; their cells may differ.
        cutoff: largest distance [Å].
        bins: number of bins.
        pairs: the pairs wanted, in the order given; all of the elements present if empty.

    Raises:
        DataError: no frames, or frames with different atoms or periodicity.
    """
    edges = np.linspace(0.0, cutoff, bins + 1)
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    first: Atoms | None = None
    numbers: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    counts: dict[tuple[int, int], NDArray[np.float64]] = {}
    number = 0
    weighted: dict[tuple[int, int], NDArray[np.float64]] = {}
    for index, atoms in enumerate(frames):
        if first is None:
            first, numbers = atoms, atoms.numbers
            wanted = _pair_numbers(numbers, pairs)
            counts = {pair: np.zeros(bins) for pair in wanted}
            weighted = {pair: np.zeros(bins) for pair in wanted}
        elif not (np.array_equal(atoms.numbers, numbers) and np.array_equal(atoms.pbc, first.pbc)):
            raise DataError(f"frame {index} of the trajectory has other atoms or another periodicity than frame 0")
        volume = atoms.get_volume() if atoms.pbc.all() else 1.0
        number += 1
        for pair, histogram in _histograms(atoms, list(counts), cutoff, edges).items():
            counts[pair] += histogram
            weighted[pair] += histogram * volume
    if first is None:
        raise DataError("a radial distribution function needs at least one frame")
    periodic = bool(first.pbc.all())
    results = []
    for (a, b), histogram in counts.items():
        atoms_a, atoms_b = int((numbers == a).sum()), int((numbers == b).sum())
        around = histogram / (atoms_a * number)
        values = weighted[a, b] / (atoms_a * atoms_b * number * shells) if periodic else around / np.diff(edges)
        results.append(
            RadialDistribution(
                pair=(chemical_symbols[a], chemical_symbols[b]),
                r=0.5 * (edges[1:] + edges[:-1]),
                values=values,
                coordination=np.cumsum(around),
                periodic=periodic,
            )
        )
    return results


def _pair_numbers(numbers: NDArray[np.int64], pairs: Sequence[tuple[str, str]]) -> list[tuple[int, int]]:
    present = sorted({int(number) for number in numbers})
    if not pairs:
        return list(combinations_with_replacement(present, 2))
    wanted = []
    for pair in pairs:
        for symbol in pair:
            if symbol not in chemical_symbols or chemical_symbols.index(symbol) not in present:
                raise DataError(
                    f"pair {'-'.join(pair)}: the trajectory has no {symbol}; it has "
                    f"{[chemical_symbols[number] for number in present]}"
                )
        wanted.append((chemical_symbols.index(pair[0]), chemical_symbols.index(pair[1])))
    return wanted


def _histograms(
    atoms: Atoms, pairs: list[tuple[int, int]], cutoff: float, edges: NDArray[np.float64]
) -> dict[tuple[int, int], NDArray[np.float64]]:
    pos = torch.from_numpy(atoms.get_positions())
    cell = torch.from_numpy(np.array(atoms.cell))
    edge_index, shift = neighbor_list(pos, cell, torch.from_numpy(np.array(atoms.pbc)), cutoff)
    neighbor, center = edge_index
    lengths = (pos[neighbor] - pos[center] + shift @ cell).norm(dim=1).numpy()
    number_center, number_neighbor = atoms.numbers[center.numpy()], atoms.numbers[neighbor.numpy()]
    found = {}
    for a, b in pairs:
        chosen = (number_center == a) & (number_neighbor == b)
        found[a, b] = np.histogram(lengths[chosen], bins=edges)[0].astype(np.float64)
    return found
