"""Public checks that any net or calculator can inherit, and the smallest net to try them on."""

from geomlib.testing.calculators import CalculatorTests
from geomlib.testing.gradients import numerical_forces, numerical_stress
from geomlib.testing.nets import NetTests, perturb_parameters
from geomlib.testing.orbitals import turn_of_orbitals
from geomlib.testing.toy import ToyPotential

__all__ = [
    "CalculatorTests",
    "NetTests",
    "ToyPotential",
    "numerical_forces",
    "numerical_stress",
    "perturb_parameters",
    "turn_of_orbitals",
]
