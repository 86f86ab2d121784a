"""One HTML page about a training run and the dynamics that were run with its model.

The page holds everything itself (style, figures), so it can be mailed or archived; it runs no scripts and loads
nothing. What a run does not hold is left out, with a line that says so.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from geomlib import __version__
from geomlib.apply.evaluate import Evaluation, errors_of
from geomlib.apply.past_simulation import PastSimulation, find_simulations
from geomlib.apply.report.dynamics import dynamics_section
from geomlib.apply.report.parts import Fact, Section, facts, figure_card, note, number, table
from geomlib.apply.report.plots import element_plot, learning_curve, parity_plot
from geomlib.apply.report.properties import property_facts, property_sections
from geomlib.apply.report.uncertainty import uncertainty_section
from geomlib.apply.run_folder import QUANTITIES, Comparison, Curve, RunFolder, read_run
from geomlib.data.elements import SYMBOLS
from geomlib.data.fields import FIELDS
from geomlib.errors import ConfigError

__all__ = ["write_evaluation", "write_page", "write_report"]


def write_report(
    run: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    simulations: Sequence[str | os.PathLike[str]] = (),
    explain: bool = True,
) -> Path:
    """Write the report of a run folder, or of a simulation alone.

    Args:
        run: folder of a run, or a trajectory or its log.
        output: HTML file; `report.html` in the folder, or beside the trajectory, if not given.
        simulations: trajectories or logs to add to those that lie in the folder.
        explain: for models of properties of molecules, show what they look at (atoms, layers, map of embeddings).

    Returns:
        The file.

    Raises:
        ConfigError: there is nothing to report at `run`.
        FileFormatError: a file is damaged.
    """
    given = Path(run)
    if given.is_dir():
        folder: RunFolder | None = read_run(given)
        found = find_simulations(given)
        file = given / "report.html"
    else:
        folder, found = None, [PastSimulation.read(given)]
        file = found[0].trajectory.with_name(found[0].trajectory.name + ".report.html")
    known = {simulation.trajectory.resolve() for simulation in found}
    found += [
        simulation
        for simulation in map(PastSimulation.read, simulations)
        if simulation.trajectory.resolve() not in known
    ]
    if folder is not None and folder.is_empty and not found:
        raise ConfigError(f"{given}: is no run folder and holds no simulation; a fit makes runs/NAME/version_N")
    file = file if output is None else Path(output)
    missing = list(folder.missing) if folder is not None else []
    if not found and not (folder is not None and folder.properties):
        missing.append("No simulation lies in the folder; 'geomlib md' with its output there, or --md, adds one.")
    kind = "Training report" if folder is not None else "Simulation report"
    headline = [] if folder is None else list(_headline(folder))
    title = folder.name if folder is not None else found[0].trajectory.name
    more: list[Section] = []
    if folder is not None and folder.properties and explain and folder.manifest is not None:
        from geomlib.apply.explain_run import run_explanation

        more, sentences = run_explanation(folder)
        missing += sentences
    _write(file, _page(title, kind, headline, folder, found, missing, more=more))
    return file


def write_evaluation(result: Evaluation, output: str | os.PathLike[str], title: str) -> Path:
    """Write the figures of an evaluation: parity, errors by element, and of a committee its calibration.

    Args:
        result: of `geomlib.apply.evaluate.evaluate`.
        output: HTML file.
        title: of the page.
    """
    pairs, file = result.pairs, Path(output)
    comparisons = [
        Comparison(
            name,
            (np.stack if name == "stress" else np.concatenate)(pairs.labels[name]),
            (np.stack if name == "stress" else np.concatenate)(pairs.predictions[name]),
            np.concatenate(pairs.numbers) if name == "forces" else None,
        )
        for name in result.errors
    ]
    run = RunFolder(file, comparisons=comparisons, uncertainty=pairs.uncertainty())
    headline = [Fact(f"{name.capitalize()} MAE", number(row.mae), row.unit) for name, row in result.errors.items()]
    missing = [
        f"{len(result.skipped)} structures could not be used; {where}: {why}" for where, why in result.skipped[:1]
    ]
    _write(file, _page(title, f"{result.structures:,} structures", headline, run, (), missing))
    return file


def write_page(
    file: Path, title: str, kind: str, headline: list[Fact], sections: Sequence[Section], missing: Sequence[str] = ()
) -> Path:
    """Write a page of sections in the style of all reports.

    Args:
        file: HTML file.
        title: of the page.
        kind: what it is about, set below the title.
        headline: large facts at its head.
        sections: in their order.
        missing: sentences to know first.
    """
    _write(file, _page(title, kind, headline, None, (), missing, sections))
    return file


def _write(file: Path, page: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8")


def _page(
    title: str,
    kind: str,
    headline: list[Fact],
    run: RunFolder | None,
    simulations: Sequence[PastSimulation],
    missing: Sequence[str],
    given: Sequence[Section] = (),
    more: Sequence[Section] = (),
) -> str:
    sections = [*given, *(_run_sections(run) if run is not None else ()), *more]
    dynamics = [dynamics_section(simulation, index) for index, simulation in enumerate(simulations)]
    sections += [section for section, _ in dynamics]
    if run is not None and run.recipe is not None:
        recipe = f"<details><summary>config.yaml</summary><pre>{escape(run.recipe)}</pre></details>"
        sections.append(Section("recipe", "Recipe", f'<div class="card">{recipe}</div>'))
    headline = [*headline, *(fact for _, fact in dynamics if fact is not None)]
    now = datetime.now().astimezone()
    links = "".join(f'<a href="#{section.id}">{escape(section.title)}</a>' for section in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{escape(title)} · geomlib</title>
<style>
{files("geomlib.apply").joinpath("report.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<header><div>
<h1>{escape(title)}</h1>
<p>{kind}, {now:%d %B %Y %H:%M}, geomlib {escape(__version__)}</p>
{facts(headline, headline=True)}
<nav>{links}</nav>
</div></header>
<main>
{note(missing)}
{"".join(section.html() for section in sections)}
<footer>Written by geomlib {escape(__version__)}.{_footer(run)}</footer>
</main>
</body>
</html>
"""


def _footer(run: RunFolder | None) -> str:
    if run is None or run.properties:
        return ""
    return " Energies and virials are per atom; errors of vectors and tensors are over components."


def _headline(run: RunFolder) -> Iterator[Fact]:
    """The numbers that a reader looks for first."""
    if run.properties:
        yield from property_facts(run.properties)
    if run.test is None:
        return
    for name in ("forces", "energy", "stress", "virial"):
        value = run.test.metrics.get(f"{name}_mae")
        if value is None:
            continue
        factor, unit = _display(run.test.units.get(f"{name}_mae", ""))
        mean = run.test.mean_predictor.get(f"{name}_mae")
        below = "" if mean is None else f"mean predictor {number(factor * mean)}"
        yield Fact(f"{name.capitalize()} MAE, test", number(factor * value), unit, below)


def _display(unit: str) -> tuple[float, str]:
    """Factor and unit in which a number of `unit` is read best: stress in GPa, energies and forces with meV."""
    if unit == FIELDS["stress"].unit:
        return QUANTITIES["stress"]
    return (1e3, f"m{unit}") if unit.startswith("eV") else (1.0, unit)


def _error_unit(quantity: str) -> str:
    """Unit in which training logs errors of a field: its own, per atom if it grows with the structure."""
    return f"{FIELDS[quantity].unit}/atom" if quantity in ("energy", "virial") else FIELDS[quantity].unit


def _run_sections(run: RunFolder) -> Iterator[Section]:
    if run.manifest is not None:
        citation = run.manifest.get("citation")
        words = f'<p class="caption">{escape(str(citation))}</p>' if citation else ""
        yield Section("model", "Model", facts(list(_model_facts(run.manifest))) + words)
    if run.test is not None and not run.properties:
        yield Section("test", "Test errors", _test_table(run))
    if run.properties:
        yield from property_sections(run.properties)
    curves = list(_curves(run.curves))
    if curves:
        yield Section("learning", "Learning curves", f'<div class="grid">{"".join(curves)}</div>')
    if run.comparisons:
        cards = [figure_card(parity_plot(row), _extent(row)) for row in run.comparisons]
        yield Section("parity", "Predictions and labels", "".join(cards))
    forces = next((row for row in run.comparisons if row.name == "forces"), None)
    if forces is not None:
        yield Section("elements", "Error by element", _by_element(forces))
    if run.uncertainty is not None:
        yield uncertainty_section(run.uncertainty)


def _extent(comparison: Comparison) -> str:
    items = f"{len(comparison.label):,} {'structures' if comparison.numbers is None else 'atoms'}"
    tails = "; errors beyond the axis are counted in the outermost bins."
    return f"{items}{'' if comparison.label.ndim == 1 else f', {comparison.label.size:,} components'}{tails}"


def _model_facts(manifest: Mapping[str, Any]) -> Iterator[Fact]:
    if manifest.get("members"):
        yield Fact("committee", f"{manifest['members']} members")
    yield Fact("family", f"{manifest['family']}, version {manifest['family_version']}")
    if "parameters" in manifest:
        yield Fact("parameters", f"{manifest['parameters']:,}")
    if manifest.get("elements"):
        yield Fact("elements", ", ".join(map(str, manifest["elements"])))
    for builder in manifest["spec"].get("builders", []):
        if isinstance(builder, dict) and "cutoff" in builder:
            yield Fact(f"cutoff of {str(builder.get('kind', 'edges')).replace('_', ' ')}", f"{builder['cutoff']:g} Å")
    for key, words in {"dtype": "precision", "licence": "licence"}.items():
        if manifest.get(key):
            yield Fact(words, str(manifest[key]))
    if manifest.get("created"):
        yield Fact("made", str(manifest["created"]).replace("T", " ").replace("+00:00", " UTC"))
    trained_on = manifest.get("trained_on")
    if isinstance(trained_on, dict):
        names = [str(trained_on[key]) for key in ("card", "split") if trained_on.get(key)]
        sizes = trained_on.get("sizes")
        counts = [f"{count:,} {part}" for part, count in sizes.items()] if isinstance(sizes, dict) else []
        yield Fact("trained on", ", ".join(names or counts), below=", ".join(counts) if names else "")
    versions = manifest.get("versions", {})
    yield Fact(
        "software", ", ".join(f"{name} {version}" for name, version in versions.items() if name in ("geomlib", "torch"))
    )
    if "weights_sha256" in manifest:
        yield Fact("weights, sha256", f"{manifest['weights_sha256'][:12]}…")


def _test_table(run: RunFolder) -> str:
    assert run.test is not None
    test = run.test
    names = list(dict.fromkeys(name.rpartition("_")[0] for name in test.metrics if name.endswith(("_mae", "_rmse"))))
    worst = {row.name: _largest(row) for row in run.comparisons}
    head = ["", "unit", "MAE", "of mean predictor", "RMSE", "of mean predictor", "explained", "largest error"]
    rows = []
    for name in names:
        factor, unit = _display(test.units.get(f"{name}_mae", ""))
        cells = [
            number(None if value is None else factor * value)
            for kind in ("mae", "rmse")
            for value in (test.metrics.get(f"{name}_{kind}"), test.mean_predictor.get(f"{name}_{kind}"))
        ]
        rmse, spread = test.metrics.get(f"{name}_rmse"), test.mean_predictor.get(f"{name}_rmse")
        explained = _percent(1 - (rmse / spread) ** 2) if rmse is not None and spread else "–"
        rows.append([name, unit, *cells, explained, worst.get(name, "–")])
    words = (
        f"{test.graphs:,} structures. The mean predictor knows the mean of the training labels and nothing else. "
        "Explained is 1 − (RMSE / RMSE of the mean predictor)²."
    )
    return f'<figure class="card">{table(head, rows)}<figcaption>{words}</figcaption></figure>'


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %" if fraction >= 0 else "none"


def _largest(comparison: Comparison) -> str:
    factor, unit = QUANTITIES[comparison.name]
    return f"{number(factor * float(np.abs(comparison.prediction - comparison.label).max()))} {unit}"


def _curves(curves: Mapping[str, Curve]) -> Iterator[str]:
    """One figure for the loss, one for each field, one for the learning rate."""
    metrics = dict.fromkeys(
        name.partition("/")[2].removesuffix("_step").removesuffix("_epoch") for name in curves if "/" in name
    )
    fields = [name for name in metrics if name.endswith("_mae") and name.removesuffix("_mae") in FIELDS]
    for metric in [name for name in metrics if name in ("loss", "rmse", "auc")] + fields:
        stages = {}
        for stage, words in (("train", "training"), ("val", "validation")):
            for ending in ("", "_epoch", "_step"):
                if f"{stage}/{metric}{ending}" in curves:
                    stages[words] = curves[f"{stage}/{metric}{ending}"]
                    break
        quantity = metric.removesuffix("_mae")
        of_field = metric.endswith("_mae")
        factor, unit = _display(_error_unit(quantity)) if of_field else (1.0, "")
        title = f"{quantity} MAE" if of_field else {"loss": "loss", "rmse": "RMSE", "auc": "ROC-AUC"}[metric]
        if any((curve.value > 0).any() for curve in stages.values()):
            yield figure_card(learning_curve(title, unit, stages, factor))
    rates = {name: curve for name, curve in curves.items() if name.startswith("lr")}
    if rates:
        yield figure_card(learning_curve("learning rate", "", rates))


def _by_element(forces: Comparison) -> str:
    assert forces.numbers is not None
    errors = {
        SYMBOLS[value]: errors_of([forces.label[chosen]], [forces.prediction[chosen]], "forces")
        for value in np.unique(forces.numbers).tolist()
        for chosen in [forces.numbers == value]
    }
    unit = next(iter(errors.values())).unit
    rows = [
        [
            symbol,
            f"{row.count // 3:,}",
            number(row.mae),
            number(row.rmse),
            number(row.spread),
            f"{100 * row.rmse / row.spread:.1f} %" if row.spread else "–",
        ]
        for symbol, row in errors.items()
    ]
    head = ["element", "atoms", f"MAE [{unit}]", f"RMSE [{unit}]", f"spread of labels [{unit}]", "RMSE / spread"]
    return figure_card(element_plot(errors)) + f'<div class="card">{table(head, rows)}</div>'
