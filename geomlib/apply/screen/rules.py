"""Rules on numbers: `MW<=500`, `-0.4 <= logP <= 5.6`, `elements in C,H,N,O`, and named sets of them."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from geomlib.errors import ConfigError, nearest

__all__ = ["PRESETS", "ElementRule", "Interval", "RuleSet", "parse_rule", "preset"]

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_NAME = r"[^\W\d]\w*"
_ONE = re.compile(rf"\s*({_NAME})\s*(<=|>=|==|<|>|=)\s*({_NUMBER})\s*")
_REVERSED = re.compile(rf"\s*({_NUMBER})\s*(<=|>=|<|>)\s*({_NAME})\s*")
_TWO = re.compile(rf"\s*({_NUMBER})\s*(<=|<)\s*({_NAME})\s*(<=|<)\s*({_NUMBER})\s*")
_ELEMENTS = re.compile(r"\s*elements\s+in\s+([A-Z][a-z]?(?:\s*,\s*[A-Z][a-z]?)*)\s*")
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass(frozen=True, slots=True)
class Interval:
    """low < x < high, or with equality; a bound that is None is open.

    Args:
        name: of the column.
        low: lower bound.
        high: upper bound.
        low_included: whether the lower bound itself is inside.
        high_included: whether the upper bound itself is inside.
        text: the rule as it was given.
    """

    name: str
    low: float | None = None
    high: float | None = None
    low_included: bool = False
    high_included: bool = False
    text: str = ""

    def holds(self, value: float) -> bool:
        """Whether a number is inside; NaN never is."""
        if math.isnan(value):
            return False
        above = self.low is None or value > self.low or (self.low_included and value == self.low)
        below = self.high is None or value < self.high or (self.high_included and value == self.high)
        return above and below


@dataclass(frozen=True, slots=True)
class ElementRule:
    """No elements but these.

    Args:
        symbols: what may occur; hydrogen always may.
        text: the rule as it was given.
    """

    symbols: frozenset[str]
    text: str


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules that belong together.

    Args:
        name: of the set.
        rules: intervals.
        violations: how many of them may be broken.
    """

    name: str
    rules: tuple[Interval, ...]
    violations: int = 0

    def broken(self, values: Mapping[str, float]) -> list[Interval]:
        """The broken rules if they are too many, otherwise nothing."""
        found = [rule for rule in self.rules if not rule.holds(values[rule.name])]
        return found if len(found) > self.violations else []


def parse_rule(text: str) -> Interval | ElementRule:
    """A rule from `NAME OP NUMBER`, `NUMBER OP NAME OP NUMBER` or `elements in C,H,O`.

    Raises:
        ConfigError: anything else, or an interval that holds nothing.
    """
    if found := _ELEMENTS.fullmatch(text):
        return ElementRule(frozenset(re.split(r"\s*,\s*", found[1])) | {"H"}, text.strip())
    if found := _TWO.fullmatch(text):
        low, first, name, second, high = found.groups()
        rule = Interval(name, float(low), float(high), first == "<=", second == "<=", text.strip())
        if float(low) > float(high) or (low == high and not (rule.low_included and rule.high_included)):
            raise ConfigError(f"rule '{text}': nothing is between {low} and {high}")
        return rule
    if found := _ONE.fullmatch(text):
        name, sign, number = found.groups()
    elif found := _REVERSED.fullmatch(text):
        number, sign, name = found.groups()
        sign = _TURNED[sign]
    else:
        raise ConfigError(f"rule '{text}': expected one like 'MW<=500', '0<=logP<5' or 'elements in C,H,N,O'")
    value = float(number)
    low_bound = value if sign in (">", ">=", "==", "=") else None
    high_bound = value if sign in ("<", "<=", "==", "=") else None
    return Interval(name, low_bound, high_bound, sign in (">=", "==", "="), sign in ("<=", "==", "="), text.strip())


def _set(name: str, rules: Sequence[str], violations: int = 0) -> RuleSet:
    parsed = tuple(rule for rule in map(parse_rule, rules) if isinstance(rule, Interval))
    return RuleSet(name, parsed, violations)


PRESETS = {
    row.name: row
    for row in (
        _set("lipinski", ["MW<=500", "logP<=5", "HBD<=5", "HBA<=10"], violations=1),
        _set("veber", ["rotatable_bonds<=10", "TPSA<=140"]),
        _set("ghose", ["160<=MW<=480", "-0.4<=logP<=5.6", "20<=atoms<=70", "40<=molar_refractivity<=130"]),
        _set("egan", ["logP<=5.88", "TPSA<=131.6"]),
        _set("rule-of-three", ["MW<=300", "logP<=3", "HBD<=3", "HBA<=3", "rotatable_bonds<=3"]),
    )
}
"""Sets of rules that have a name; of Lipinski's one may be broken. HBD and HBA are as RDKit counts them.

Source: Lipinski et al., 10.1016/S0169-409X(96)00423-1; Veber et al., 10.1021/jm020017n; Ghose et al.,
10.1021/cc9800071; Egan et al., 10.1021/jm000292e; Congreve et al., 10.1016/S1359-6446(03)02831-9.
"""


def preset(name: str) -> RuleSet:
    """A set of rules by its name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset '{name}'{nearest(name, PRESETS)}: expected {', '.join(PRESETS)}")
    return PRESETS[name]
