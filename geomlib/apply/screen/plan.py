"""`ScreenPlan`: what a screening does, as data that goes to worker processes and into the manifest."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from geomlib.apply.screen.chemistry import PROPERTIES, property_of
from geomlib.apply.screen.ranking import Objective
from geomlib.apply.screen.rules import ElementRule, Interval, RuleSet, parse_rule, preset
from geomlib.errors import ConfigError, nearest

__all__ = ["DEFAULT_PROPERTIES", "Rules", "ScreenPlan"]

DEFAULT_PROPERTIES = ("MW", "logP", "TPSA", "HBD", "HBA", "rotatable_bonds")


@dataclass(frozen=True, slots=True)
class ScreenPlan:
    """What is done with every molecule, in this order; a molecule goes as far as it passes.

    Args:
        standardize: steps out of `STANDARDIZATIONS`.
        properties: to calculate, names of `PROPERTIES`; those that rules need are added.
        presets: names of sets of rules.
        keep: rules, `parse_rule`; of properties, `similarity` or predicted columns.
        include: SMARTS that must all occur.
        exclude: SMARTS none of which may occur.
        references: SMILES; `similarity` becomes the largest Tanimoto similarity of ECFP4 to one of them.
        alerts: catalogs out of `ALERTS`.
        models: groups of model files; the files of a group have the same targets and make a committee.
        predicted: columns of the models, filled in by `screen`.
        device: of the models.
        max_length: characters of a SMILES beyond which it is not tried.
        objectives: what makes one molecule better than another.
        diverse: how many to pick that differ most from one another (MaxMin), out of those that are ok; 0 picks none.
        top: how many of the best go into a file of their own.
    """

    standardize: tuple[str, ...] = ()
    properties: tuple[str, ...] = DEFAULT_PROPERTIES
    presets: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()
    models: tuple[tuple[str, ...], ...] = ()
    predicted: tuple[str, ...] = ()
    device: str | None = None
    max_length: int = 5000
    objectives: tuple[Objective, ...] = ()
    diverse: int = 0
    top: int = 0

    def to_json(self) -> str:
        """The plan as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ScreenPlan":
        """A plan from what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        plain["models"] = tuple(tuple(group) for group in values["models"])
        plain["objectives"] = tuple(Objective(**row) for row in values["objectives"])
        return cls(**plain)

    @property
    def rules(self) -> "Rules":
        """The rules, read and checked."""
        return Rules.of(self)

    @property
    def calculated(self) -> tuple[str, ...]:
        """Columns that are made from molecules without a model."""
        return (*self.rules.properties, *(("similarity", "most_similar") if self.references else ()))

    def columns(self, given: tuple[str, ...]) -> dict[str, str]:
        """Role of each new column → its name, which is `screen_…` where a column of the input is called so already.

        Args:
            given: columns of the input.
        """
        new = ["row", *(["standard_smiles"] if self.standardize else []), *self.calculated, *self.predicted]
        if self.objectives:
            new += ["pareto_front", "desirability", "rank"]
        if self.diverse:
            new.append("diverse")
        new.append("status")
        return {name: f"screen_{name}" if name in given else name for name in new}


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a plan by when they can be decided.

    Args:
        properties: columns to calculate.
        elements: rules on elements.
        early: rules on properties.
        sets: sets of rules on properties.
        similar: rules on the similarity.
        late: rules on predicted columns.
    """

    properties: tuple[str, ...]
    elements: tuple[ElementRule, ...]
    early: tuple[Interval, ...]
    sets: tuple[RuleSet, ...]
    similar: tuple[Interval, ...]
    late: tuple[Interval, ...]

    @classmethod
    def of(cls, plan: ScreenPlan) -> "Rules":
        """Read the rules of a plan.

        Raises:
            ConfigError: a rule that can't be read or whose column there isn't.
        """
        names: dict[str, None] = {}
        for name in plan.properties:
            known = property_of(name)
            if known is None:
                raise ConfigError(f"property '{name}'{nearest(name, PROPERTIES)}: expected {', '.join(PROPERTIES)}")
            names[known] = None
        elements: list[ElementRule] = []
        places: Mapping[str, list[Interval]] = {"early": [], "similar": [], "late": []}
        for text in plan.keep:
            rule = parse_rule(text)
            if isinstance(rule, ElementRule):
                elements.append(rule)
                continue
            known = property_of(rule.name)
            if rule.name in plan.predicted:
                places["late"].append(rule)
            elif rule.name == "similarity" and plan.references:
                places["similar"].append(rule)
            elif known is not None:
                names[known] = None
                bounds = (rule.low, rule.high, rule.low_included, rule.high_included)
                places["early"].append(Interval(known, *bounds, rule.text))
            else:
                columns = [*PROPERTIES, *plan.predicted, *(["similarity"] if plan.references else [])]
                raise ConfigError(
                    f"rule '{text}': no column '{rule.name}'{nearest(rule.name, columns)}; "
                    f"there are {', '.join(columns)}"
                )
        sets = tuple(preset(name) for name in plan.presets)
        names |= {rule.name: None for chosen in sets for rule in chosen.rules}
        return cls(
            tuple(names),
            tuple(elements),
            tuple(places["early"]),
            sets,
            tuple(places["similar"]),
            tuple(places["late"]),
        )
