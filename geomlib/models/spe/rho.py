"""Functions ρ of the pair channels W_ℓ = V φ_ℓ(λ) Vᵀ, from pairs of nodes to nodes, by name."""

from typing import Any

from geomlib.errors import ConfigError, nearest
from geomlib.models.spe.pair_function import PairFunction
from geomlib.models.spe.rho_columns import GIN, Perceptron
from geomlib.models.spe.rho_pairs import IGN, PPGN, GINDeepSets

__all__ = ["RHO", "make_rho"]

RHO: dict[str, type[PairFunction]] = {cls.kind: cls for cls in (GIN, GINDeepSets, IGN, Perceptron, PPGN)}
"""Name → ρ."""


def make_rho(kind: str, m: int, outputs: int, **options: Any) -> PairFunction:
    """ρ by name.

    Args:
        kind: key of `RHO`.
        m: pair channels.
        outputs: channels of a node.
        **options: other arguments of that class.

    Raises:
        ConfigError: an unknown name or option.
    """
    if kind not in RHO:
        raise ConfigError(f"ρ '{kind}' is unknown{nearest(kind, RHO)}; there are {sorted(RHO)}")
    try:
        return RHO[kind](m, outputs, **options)
    except TypeError as error:
        raise ConfigError(f"ρ '{kind}': {error}") from None
