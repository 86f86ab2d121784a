"""A geomlib potential as a model of torch-sim, where that is installed."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from ase import Atoms
from torch import Tensor

from geomlib.apply.ase import Calculator
from geomlib.apply.batched.batch import StructureBatch, admit
from geomlib.apply.budget import Budget
from geomlib.errors import DataError, MissingExtra
from geomlib.files.manifest import AnyNet

__all__ = ["torchsim_model"]

_NO_LIMIT = 2**62


def torchsim_model(
    model: str | os.PathLike[str] | AnyNet | Calculator | Sequence[str],
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float64,
    skin: float = 0.5,
    memory_scales_with: str = "n_atoms_x_density",
) -> Any:
    """A `torch_sim.models.interface.ModelInterface` for torch-sim's integrators, optimizers and batching.

    Energies [eV], forces [eV/Å] and stress [eV/Å³, ASE's sign; zero for a system without volume or periodic direction]
    are those of `Calculator`. The neighbour list of a system is kept as long as its atoms have not moved by half the
    skin. Total charges and spins have no place in torch-sim's states: nets that need them are refused when asked.

    Args:
        model: path of a model file, net, calculator, or several for a committee's mean.
        device: e.g. `"cuda"`; where the file or net says if not given.
        dtype: of torch-sim's states; the net keeps its own precision.
        skin: extra radius of the neighbour lists [Å].
        memory_scales_with: what torch-sim's automatic batching goes by; `"n_atoms"` for molecules without a cell.

    Raises:
        MissingExtra: torch-sim is not installed.
    """
    try:
        from torch_sim.models.interface import ModelInterface
    except ImportError:
        raise MissingExtra("torch-sim-atomistic", "torchsim", "running potentials in torch-sim") from None
    calculator = model if isinstance(model, Calculator) else Calculator(model, device=device)

    class TorchSimModel(ModelInterface):
        """A geomlib potential in torch-sim; made by `torchsim_model`."""

        def __init__(self) -> None:
            super().__init__()
            self._device, self._dtype = calculator.device, dtype
            self._compute_forces = self._compute_stress = True
            self._memory_scales_with = memory_scales_with
            self._systems = _Systems(calculator, skin)

        def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
            """Energy [systems], forces [atoms, 3] and stress [systems, 3, 3] of a state."""
            values = state if isinstance(state, dict) else vars(state)
            found = self._systems.evaluate(
                values["positions"], values["cell"], values["pbc"], values["atomic_numbers"], values.get("system_idx")
            )
            return {name: value.to(dtype) for name, value in found.items()}

    return TorchSimModel()


class _Systems:
    """The systems of the last state, with their neighbour lists."""

    def __init__(self, calculator: Calculator, skin: float) -> None:
        self._calculator, self._skin = calculator, skin
        self._batch = StructureBatch(calculator, Budget(_NO_LIMIT), skin)
        self._known: tuple[Tensor, ...] = ()

    def evaluate(
        self, positions: Tensor, cell: Tensor, pbc: Any, atomic_numbers: Tensor, system_idx: Tensor | None
    ) -> dict[str, Tensor]:
        """Predictions for a state; torch-sim keeps lattice vectors as columns."""
        device = self._calculator.device
        rows = cell.detach().to(device, torch.float64).reshape(-1, 3, 3).mT.contiguous()
        owner = torch.zeros(len(positions), dtype=torch.int64) if system_idx is None else system_idx
        periodic = torch.as_tensor(pbc).cpu().expand(len(rows), 3)  # one for all, one for each axis, or all
        state = (atomic_numbers.cpu(), owner.cpu(), periodic)
        same = bool(self._known) and all(torch.equal(old, new) for old, new in zip(self._known, state, strict=True))
        points = positions.detach().to(device, torch.float64)
        if not same:
            self._begin(points, rows, *state)
        self._batch.pos, self._batch.cell = points.clone(), rows
        found = self._batch.evaluate()
        if found.problems:
            system, reason = next(iter(found.problems.items()))
            raise DataError(f"system {system}: {reason}")
        volume = torch.linalg.det(rows).abs()
        has_stress = (volume > 0) & self._batch.pbc.any(1)
        scale = torch.where(has_stress, 1.0 / volume.clamp_min(1e-300), 0.0).view(-1, 1, 1)
        return {"energy": found.energy, "forces": found.forces, "stress": -found.virial * scale}

    def _begin(self, points: Tensor, rows: Tensor, numbers: Tensor, owner: Tensor, periodic: Tensor) -> None:
        self._batch = StructureBatch(self._calculator, Budget(_NO_LIMIT), self._skin)
        members = []
        for system in range(len(rows)):
            chosen = owner == system
            atoms = Atoms(
                numbers=numbers[chosen].numpy(),
                positions=points.cpu()[chosen].numpy(),
                cell=rows[system].cpu().numpy(),
                pbc=periodic[system].numpy(),
            )
            members.append(admit(self._calculator, system, atoms))
        self._batch.add(members)
        self._known = (numbers.clone(), owner.clone(), periodic.clone())
