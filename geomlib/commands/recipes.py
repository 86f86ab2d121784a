"""`geomlib recipes`: the training recipes that come with geomlib."""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import geomlib
from geomlib.errors import ConfigError, nearest

__all__ = ["Recipe", "configure", "find_recipe", "recipes", "run"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe file.

    Args:
        name: its path below the recipe folder without the ending, e.g. `dpa3/quickstart`.
        path: where it stands.
        title: what it learns, the first line of its header.
    """

    name: str
    path: str
    title: str

    def header(self) -> str:
        """The comment lines at the top of the file, without the `#`."""
        lines = []
        for line in Path(self.path).read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            lines.append(line.lstrip("#").strip())
        return "\n".join(lines)


def recipe_folder() -> Path:
    """Folder of the recipes: inside the package in an installed wheel, beside it in a clone.

    Raises:
        ConfigError: neither is there.
    """
    package = Path(geomlib.__file__).parent
    for folder in (package / "_recipes", package.parent / "recipes"):
        if folder.is_dir():
            return folder
    raise ConfigError(f"no recipes beside {package}: the installation is incomplete; install geomlib again")


def recipes() -> list[Recipe]:
    """All recipes, by name; parts (`_parts/…`) come last."""
    folder = recipe_folder()
    found = []
    for path in sorted(folder.rglob("*.yaml")):
        with path.open(encoding="utf-8") as file:
            first = file.readline()
        title = first.lstrip("#").strip() if first.startswith("#") else ""
        found.append(Recipe(path.relative_to(folder).with_suffix("").as_posix(), str(path), title))
    return sorted(found, key=lambda recipe: (recipe.name.startswith("_"), recipe.name))


def find_recipe(name: str) -> Recipe:
    """Recipe called `name`, e.g. `dpa3/quickstart` (a `.yaml` at the end is allowed).

    Raises:
        ConfigError: there is none; the message names the closest one.
    """
    known = {recipe.name: recipe for recipe in recipes()}
    try:
        return known[name.removesuffix(".yaml")]
    except KeyError:
        raise ConfigError(f"no recipe is called '{name}'{nearest(name, known)}; see 'geomlib recipes list'") from None


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `geomlib recipes`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="names and what they learn")
    listing.add_argument("--json", action="store_true", help="print one JSON array")
    show = actions.add_parser("show", help="print a recipe")
    show.add_argument("name", metavar="NAME", help="a name of the list, e.g. dpa3/quickstart")
    show.add_argument("--path", action="store_true", help="print where the file stands instead of its text")
    show.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out `geomlib recipes`."""
    if args.action == "show":
        recipe = find_recipe(args.name)
        text = Path(recipe.path).read_text(encoding="utf-8")
        if args.json:
            print(json.dumps({**asdict(recipe), "text": text}))
        else:
            print(recipe.path if args.path else text.rstrip())
        return 0
    found = recipes()
    if args.json:
        print(json.dumps([asdict(recipe) for recipe in found]))
        return 0
    width = max((len(recipe.name) for recipe in found), default=0)
    for recipe in found:
        print(f"{recipe.name:<{width}}  {recipe.title}".rstrip())
    return 0
