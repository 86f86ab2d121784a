"""Whether two ways of evaluating a net give the same."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from geomlib.errors import CompileError

__all__ = ["lowest_precision", "require_agreement"]

_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}


def lowest_precision(tensors: Iterable[Tensor]) -> torch.dtype:
    """The floating dtype with the largest rounding among those of tensors; float64 if there are none."""
    dtypes = {value.dtype for value in tensors if value.is_floating_point()}
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float64)


def require_agreement(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], dtype: torch.dtype, what: str
) -> None:
    """Raise unless compiled code gives what eager evaluation gives.

    Differences may be 1e-9 (float64) or 1e-4 (float32; 1e-2 in lower precision) times the largest number of the same
    name or, where that is less, a thousandth of the largest number of all; energies, whose zero is arbitrary, that
    number of eV per atom.

    Args:
        found: name → values of the compiled code.
        expected: name → values of eager evaluation.
        dtype: lowest precision of the calculation.
        what: what made the code, for the message.

    Raises:
        CompileError: they differ by more than rounding.
    """
    tolerance = _TOLERANCES.get(dtype, 1e-2)
    sizes = {name: float(value.detach().abs().max()) for name, value in expected.items() if value.numel()}
    of_energies = {"energy": float(expected["forces"].shape[0]) if "forces" in expected else 1.0, "atom_energy": 1.0}
    floor = 1e-3 * max((size for name, size in sizes.items() if name not in of_energies), default=0.0)
    for name, size in sizes.items():
        if name not in found or found[name].shape != expected[name].shape:
            raise CompileError(
                f"{what} '{name}': the compiled code gives no tensor of its shape; don't compile this net"
            )
        error = float((found[name].detach() - expected[name].detach()).abs().max())
        allowed = tolerance * of_energies.get(name, max(size, floor, 1e-6)) + 1e-12 * size
        if not error <= allowed:  # a NaN too
            raise CompileError(
                f"{what} '{name}': the compiled code differs from eager evaluation by {error:.3g} of {size:.3g}, "
                f"allowed are {allowed:.3g}; don't compile this net with torch {torch.__version__}"
            )
