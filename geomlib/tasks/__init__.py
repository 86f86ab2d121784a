"""Tasks: a net, its loss terms, metrics and optimizer as a LightningModule."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geomlib.tasks.base import Task as Task
    from geomlib.tasks.bias import refit_energy_bias as refit_energy_bias
    from geomlib.tasks.hamiltonian import HamiltonianTask as HamiltonianTask
    from geomlib.tasks.hyperedges import HyperedgeTask as HyperedgeTask
    from geomlib.tasks.language import LanguageTask as LanguageTask
    from geomlib.tasks.potential import PotentialTask as PotentialTask
    from geomlib.tasks.property import PropertyTask as PropertyTask
    from geomlib.tasks.terms import Term as Term

__all__ = [
    "HamiltonianTask",
    "HyperedgeTask",
    "LanguageTask",
    "PotentialTask",
    "PropertyTask",
    "Task",
    "Term",
    "refit_energy_bias",
]

_LAZY = {
    "HamiltonianTask": "geomlib.tasks.hamiltonian",
    "HyperedgeTask": "geomlib.tasks.hyperedges",
    "LanguageTask": "geomlib.tasks.language",
    "PotentialTask": "geomlib.tasks.potential",
    "PropertyTask": "geomlib.tasks.property",
    "Task": "geomlib.tasks.base",
    "Term": "geomlib.tasks.terms",
    "refit_energy_bias": "geomlib.tasks.bias",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'geomlib.tasks' has no attribute '{name}'")
