"""Structures that wait for a place in a batch, and those that can't have one."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ase import Atoms

from geomlib.apply.ase import Calculator
from geomlib.apply.batched.batch import Member, StructureBatch, admit
from geomlib.apply.budget import Budget, Size, size_of, total
from geomlib.errors import DataError

__all__ = ["Failure", "Waiting"]


@dataclass(frozen=True, slots=True)
class Failure:
    """A structure that could not be done; the others went on.

    Attributes:
        index: its position among all structures.
        reason: what went wrong, in one line.
        steps: taken before that.
        atoms: the structure as it came.
    """

    index: int
    reason: str
    steps: int
    atoms: Atoms


class Waiting:
    """Structures that wait for a place in a batch.

    Structures with and without a charge or spin can't be in one batch; those alike go one after the other.

    Args:
        calculator: that will evaluate them.
        structures: all of them.
        budget: how many have a place at once.
        require: raises `DataError` for a structure that can't take part for another reason.
        first: structures before this one are left out.
    """

    def __init__(
        self,
        calculator: Calculator,
        structures: Sequence[Atoms],
        budget: Budget,
        require: Callable[[Atoms], object] | None = None,
        first: int = 0,
    ) -> None:
        self._calculator, self._structures, self._budget, self._require = calculator, structures, budget, require
        self._order = sorted(range(first, len(structures)), key=lambda index: _kind(structures[index]))
        self._next = 0
        self._prepared: tuple[Member, Size] | None = None

    def __bool__(self) -> bool:
        return self._next < len(self._order)

    def refill(self, batch: StructureBatch) -> tuple[list[Member], list[Failure]]:
        """Let in what the budget allows; returns who came, and who can't take part at all."""
        room = total(batch.sizes())
        came: list[Member] = []
        failures: list[Failure] = []
        while self:
            index = self._order[self._next]
            atoms = self._structures[index]
            present = [*batch.members, *came]
            if present and _kind(present[0].atoms) != _kind(atoms):
                break
            if self._prepared is None:
                try:
                    if self._require is not None:
                        self._require(atoms)
                    member = admit(self._calculator, index, atoms)
                    graph = copy.copy(member.graph)
                    self._prepared = (member, size_of(self._calculator.spec.prepare(graph), self._calculator.spec))
                except DataError as error:
                    failures.append(Failure(index, str(error), 0, atoms))
                    self._next += 1
                    continue
            member, size = self._prepared
            if present and not self._budget.fits(room + size, batch.device):
                break
            room = room + size
            came.append(member)
            self._prepared = None
            self._next += 1
        if came:
            batch.add(came)
        return came, failures


def _kind(atoms: Atoms) -> tuple[bool, ...]:
    return tuple(key in atoms.info for key in ("charge", "spin"))
