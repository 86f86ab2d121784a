"""Excess properties of mixtures: pairs of molecules, and curves that vanish at the pure ends."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomlib.errors import ConfigError
from geomlib.nn.reduce import segment_sum

__all__ = [
    "CURVES",
    "INTERACTIONS",
    "TEMPERATURES",
    "ExcessHead",
    "MixtureParts",
    "chebyshev_nodes",
    "component_pairs",
    "lagrange",
    "redlich_kister",
]

INTERACTIONS = ("difference", "square-difference", "gaussian", "softmax", "concat")
TEMPERATURES = ("none", "concat", "arrhenius", "linear")
CURVES = ("lagrange", "redlich-kister")

_LARGEST_EXPONENT = 80.0
"""exp of more than this is infinite in float32."""


def component_pairs(
    component_graph: Int[Tensor, " components"], graphs: int
) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """All pairs i < j of molecules of the same mixture, in the order (0,1), (0,2), …, (1,2), ….

    Args:
        component_graph: mixture of each molecule, ascending.
        graphs: number of mixtures.
    """
    components = len(component_graph)
    place = torch.arange(components, device=component_graph.device)
    ends = torch.bincount(component_graph, minlength=graphs).cumsum(0)
    later = ends.index_select(0, component_graph) - place - 1
    first = torch.repeat_interleave(place, later)
    before = torch.repeat_interleave(later.cumsum(0) - later, later)
    return first, first + 1 + torch.arange(len(first), device=place.device) - before


def chebyshev_nodes(controls: int) -> Float[Tensor, " nodes"]:
    """Where a curve is held: n = controls + 2 points cos((2k+1)π/(2n)), stretched to [0, 1] and descending from 1."""
    count = controls + 2
    nodes = torch.cos((2.0 * torch.arange(count, dtype=torch.float64) + 1.0) * math.pi / (2.0 * count))
    nodes = 0.5 * (nodes / nodes[0] + 1.0)
    nodes[0], nodes[-1] = 1.0, 0.0  # exactly, so that the curve vanishes exactly
    return nodes


def lagrange(control: Float[Tensor, "*shape controls"], z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Polynomial through the control points at the inner Chebyshev nodes, and through 0 at z = 0 and z = 1.

    Args:
        control: values at the nodes, the first at the one next to z = 1.
        z: where to evaluate; broadcasts against `control` without its last axis.
    """
    nodes = chebyshev_nodes(control.shape[-1]).to(control)
    inner = len(nodes) - 2
    # basis [.., k] of inner node k: product over all other nodes m of (z − z_m) / (z_k − z_m)
    others = torch.tensor([[m for m in range(inner + 2) if m != k] for k in range(1, inner + 1)], device=nodes.device)
    there = nodes[others]  # [inner, nodes − 1]
    scale = (nodes[1:-1].unsqueeze(1) - there).prod(1)
    basis = (z[..., None, None] - there).prod(-1) / scale
    return (control * basis).sum(-1)


def redlich_kister(
    coefficients: Float[Tensor, "*shape order"], x_i: Float[Tensor, "*shape"], x_j: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """x_i x_j Σ_k a_k (x_i − x_j)^k, with k from 0.

    Exchanging the molecules exchanges the signs of the odd coefficients.

    Source: Redlich and Kister, Ind. Eng. Chem. 40, 345 (1948).
    """
    order = torch.arange(coefficients.shape[-1], device=coefficients.device)
    difference = (x_i - x_j).unsqueeze(-1)
    powers = torch.where(order == 0, torch.ones_like(difference), difference**order)
    return x_i * x_j * (coefficients * powers).sum(-1)


@dataclass(frozen=True)
class MixtureParts:
    """The two parts of a property, on the scale of the loss.

    Attributes:
        linear: Σ x_i p_i [graphs, targets].
        excess: what is added to it [graphs, targets].
        curves: the excess before it is multiplied by the linear part, where it is [graphs, targets].
        control: control points or coefficients of each pair; with a law of temperature both of its numbers.
    """

    linear: Float[Tensor, "graphs targets"]
    excess: Float[Tensor, "graphs targets"]
    curves: Float[Tensor, "graphs targets"]
    control: Float[Tensor, "pairs targets *numbers controls"]


class ExcessHead(nn.Module):
    """Properties of a mixture from embeddings e_i of its molecules: linear mixing, and an excess of each pair.

        linear = Σ_i x_i p(e_i),    excess = Σ_{i<j} x_t Lag(x_i / x_t; c_ij),    x_t = x_i + x_j
        c_ij = m(d_ij) + flip m(d_ji),    d_ij = u_i − u_j,    u = W e

    with networks p and m of one hidden layer, and `lagrange` through the control points c_ij. `flip` reverses the
    order of the control points, so that exchanging i and j reverses the curve: nothing depends on the order of the
    molecules. A pure substance has no excess, exactly, and a molecule of mole fraction 0 changes nothing.

    Other interactions d_ij: (u_i − u_j)² and exp(−(u_i − u_j)²), which make curves symmetric about x = ½; the
    logarithm of softmax over the two molecules; both vectors, [u_i, u_j]. The curve `redlich-kister` has
    coefficients c_ij of x_i x_j (x_i − x_j)^k instead, whose odd ones change sign where the points would be reversed.

    Temperature: not seen (`none`); t = (T − center) / scale appended to e_i and d_ij (`concat`); p and c are each
    A exp(E (scale/T − scale/center)) (`arrhenius`; without a center the second term is absent); or A + E t
    (`linear`). The two numbers of the last two are reversed each in itself.

    Args:
        width: of the embeddings.
        targets: number of properties.
        interactions: `difference`, `square-difference`, `gaussian`, `softmax` or `concat`.
        controls: number of control points, or of coefficients.
        temperature: `none`, `concat`, `arrhenius` or `linear`.
        temperature_center: [K].
        temperature_scale: [K].
        dropout: probability.
        relative: the excess is multiplied by the linear part.
        curve: `lagrange` or `redlich-kister`.
        linear: whether there is a linear part; without, the properties are excesses.

    Raises:
        ConfigError: an option that is none.

    Source: MIST, arXiv 2510.18900. There the two numbers of `arrhenius` were reversed as one row, which exchanges
        them and breaks the symmetry.
    """

    def __init__(
        self,
        width: int,
        targets: int,
        interactions: str = "difference",
        controls: int = 3,
        temperature: str = "none",
        temperature_center: float = 0.0,
        temperature_scale: float = 1.0,
        dropout: float = 0.1,
        relative: bool = False,
        curve: str = "lagrange",
        linear: bool = True,
    ) -> None:
        super().__init__()
        for value, known in ((interactions, INTERACTIONS), (temperature, TEMPERATURES), (curve, CURVES)):
            if value not in known:
                raise ConfigError(f"'{value}' is none of {', '.join(known)}")
        if not 1 <= controls <= 12 or temperature_scale <= 0 or temperature_center < 0 or not 0.0 <= dropout < 1.0:
            raise ConfigError(
                f"controls {controls}, temperature_scale {temperature_scale}, temperature_center {temperature_center}, "
                f"dropout {dropout}: expected 1 to 12 controls, a positive scale, no negative center, a probability"
            )
        if relative and not linear:
            raise ConfigError("an excess relative to the linear part needs a linear part")
        self.interactions, self.controls, self.temperature, self.curve = interactions, controls, temperature, curve
        self.center, self.scale, self.relative, self.targets = temperature_center, temperature_scale, relative, targets
        self.numbers = 2 if temperature in ("arrhenius", "linear") else 1
        extra = int(temperature == "concat")
        self.pure: nn.Module | None = None
        if linear:
            self.pure = nn.Sequential(
                nn.Linear(width + extra, width),
                nn.Dropout(dropout),
                nn.SiLU(),
                nn.Linear(width, targets * self.numbers),
            )
        self.shared = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))
        joined = (2 if interactions == "concat" else 1) * width + extra
        self.pair = nn.Sequential(
            nn.Linear(joined, width),
            nn.Dropout(dropout),
            nn.GELU(),
            nn.Linear(width, targets * self.numbers * controls),
        )
        self.apply(_initialise)

    def forward(
        self,
        embeddings: Float[Tensor, "components width"],
        fractions: Float[Tensor, " components"],
        component_graph: Int[Tensor, " components"],
        graphs: int,
        temperature: Float[Tensor, " graphs"] | None = None,
    ) -> MixtureParts:
        """Both parts of every mixture.

        Args:
            embeddings: of the molecules, mixture after mixture.
            fractions: mole fractions x.
            component_graph: mixture of each molecule, ascending.
            graphs: number of mixtures.
            temperature: of the mixtures [K], where it is seen.
        """
        kelvin = None
        if self.temperature != "none":
            assert temperature is not None
            kelvin = temperature.to(embeddings)
        linear = self._linear(embeddings, fractions, component_graph, graphs, kelvin)
        first, second = component_pairs(component_graph, graphs)
        owner = component_graph.index_select(0, first)
        control = self.control_points(embeddings, first, second, None if kelvin is None else kelvin[owner])
        points = self._at_temperature(control, None if kelvin is None else kelvin[owner, None, None])
        x_i, x_j = fractions[first].unsqueeze(1), fractions[second].unsqueeze(1)
        if self.curve == "lagrange":
            total = (x_i + x_j).clamp(0.0, 1.0)
            z = x_i / torch.where(total > 0, total, torch.ones_like(total))
            each = total * lagrange(points, z.expand(-1, self.targets))
        else:
            each = redlich_kister(points, x_i.expand(-1, self.targets), x_j.expand(-1, self.targets))
        curves = segment_sum(each, owner, graphs)
        return MixtureParts(linear, curves * linear if self.relative else curves, curves, control)

    def _linear(
        self, embeddings: Tensor, fractions: Tensor, component_graph: Tensor, graphs: int, kelvin: Tensor | None
    ) -> Tensor:
        if self.pure is None:
            return embeddings.new_zeros(graphs, self.targets)
        own = None if kelvin is None else kelvin[component_graph]
        values = self.pure(self._seen(embeddings, own))
        if self.numbers == 2 and own is not None:
            values = self._at_temperature(values.unflatten(1, (2, self.targets)), own.unsqueeze(1), 1)
        return segment_sum(fractions.unsqueeze(1) * values, component_graph, graphs)

    def control_points(
        self,
        embeddings: Float[Tensor, "components width"],
        first: Int[Tensor, " pairs"],
        second: Int[Tensor, " pairs"],
        kelvin: Float[Tensor, " pairs"] | None = None,
    ) -> Float[Tensor, "pairs targets *numbers controls"]:
        """What the curve of each pair goes through, seen from its first molecule."""
        u = self.shared(embeddings)
        there, back = self._joined(u[first], u[second])
        shape = (self.targets, self.numbers, self.controls)
        forth = self.pair(self._seen(there, kelvin)).unflatten(1, shape)
        reverse = self.pair(self._seen(back, kelvin)).unflatten(1, shape)
        if self.curve == "lagrange":
            reverse = reverse.flip(-1)
        else:
            order = torch.arange(self.controls, device=reverse.device)
            signs = (1 - 2 * (order % 2)).to(reverse).expand(self.numbers, -1)
            if self.temperature == "arrhenius":  # the coefficient is A exp(E…): the sign is that of A
                signs = torch.stack([signs[0], torch.ones_like(signs[1])])
            reverse = reverse * signs
        control = forth + reverse
        return control if self.numbers == 2 else control.squeeze(2)

    def _joined(self, u_i: Tensor, u_j: Tensor) -> tuple[Tensor, Tensor]:
        if self.interactions == "concat":
            return torch.cat([u_i, u_j], dim=1), torch.cat([u_j, u_i], dim=1)
        if self.interactions == "softmax":
            there, back = F.log_softmax(torch.stack([u_i, u_j]), dim=0).unbind(0)
            return there, back
        difference = u_i - u_j
        if self.interactions == "difference":
            return difference, -difference
        square = difference.square()
        joined = square if self.interactions == "square-difference" else torch.exp(-square)
        return joined, joined

    def _seen(self, values: Tensor, kelvin: Tensor | None) -> Tensor:
        if self.temperature != "concat" or kelvin is None:
            return values
        return torch.cat([values, ((kelvin - self.center) / self.scale).unsqueeze(1)], dim=1)

    def _at_temperature(self, values: Tensor, kelvin: Tensor | None, dim: int = 2) -> Tensor:
        if self.numbers == 1 or kelvin is None:
            return values
        a, e = values.unbind(dim)
        if self.temperature == "linear":
            return a + e * ((kelvin - self.center) / self.scale)
        inverse = self.scale / kelvin - (self.scale / self.center if self.center else 0.0)
        return a * torch.exp((e * inverse).clamp(max=_LARGEST_EXPONENT))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight, gain=nn.init.calculate_gain("relu"))
        nn.init.zeros_(module.bias)
