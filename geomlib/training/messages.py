"""One line out of the parser's nested complaints: file, key, what was got, the nearest valid name."""

import importlib
import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from geomlib.errors import ConfigError, nearest

__all__ = ["UsageError", "complaint"]

_KEY = re.compile(r'Parser key "([\w.]+)":')
_CLASS = re.compile(r"Problem with given class_path '([\w.]+)'")
_UNRECOGNIZED = re.compile(
    r"Problem with given class_path '[\w.]+':\s+unrecognized arguments: --([\w.-]+)", re.IGNORECASE
)
_UNKNOWN = re.compile(r"Option '([^']+)' is not accepted")
_GROUP = re.compile(r"(?:Group|Subcommand) '([^']+)' does not accept option '([^']+)'")
_NO_CLASS = re.compile(r"Expected a dot import path string: ([^.\n]\S*)")
_LEAF = re.compile(r"(Expected (?!a <class 'NoneType'>|a path).*|.*is not a subclass.*|.*is not a correct.*)")


class UsageError(ConfigError):
    """Words on the command line that make no sense together; the recipe is not to blame."""


def complaint(
    error: str, words: Sequence[str], files: Sequence[str], known: Iterable[str], options: Iterable[str]
) -> ConfigError:
    """Say what is wrong with a recipe, or as `UsageError` with the words of a command line.

    Args:
        error: text of the parser's error.
        words: what was typed.
        files: recipe files, in the order in which they were merged.
        known: short class names.
        options: dotted names of all options outside of classes.
    """
    options = list(options)
    if found := re.match(r"unrecognized arguments: (\S+)", error.strip(), re.IGNORECASE):
        option = found[1].split("=")[0]
        return UsageError(f"'{option}' is not an option{nearest(option.lstrip('-'), options)}")
    if "arguments are required" in error or "is required" in error:
        if not files:
            return UsageError("there is no recipe: give one with -c, e.g. -c dpa3/quickstart ('geomlib recipes list')")
        missing = " and ".join(f"'{key.rpartition('.')[2]}'" for key in re.findall(r"[\w.]+(?=,|$)", error.strip()))
        return ConfigError(f"{', '.join(files)}: the recipe lacks {missing}")
    if found := re.search(r"File does not exist: '?([^'\n]+)'?", error):
        return ConfigError(f"recipe {found[1]} does not exist")
    if "Problems parsing config" in error:
        return ConfigError(f"{files[-1] if files else 'recipe'}: is not YAML: {_squeeze(error.split(':', 1)[1])}")
    if found := _GROUP.search(error):
        key, text = _unknown_key(found, options)
    elif found := _UNRECOGNIZED.search(error):  # typed on the command line, below the argument of a class
        key, text = found[1].split(".")[0], _unknown_argument(found[1], error, options)
    elif found := _UNKNOWN.search(error):
        key, text = found[1], _unknown_argument(found[1], error, options)
    elif found := _NO_CLASS.search(error):
        key = found[1]
        text = f"'{_dotted(error)}' names the class '{key}', which is unknown{nearest(key, known)}"
    elif found := _LEAF.search(error):
        key, text = _dotted(error), f"'{_dotted(error)}': {_wrong_value(found[1], error)}"
    else:
        return ConfigError(f"{', '.join(files) or 'command line'}: {_squeeze(error)}")
    return ConfigError(f"{_place(key.rpartition('.')[2], words, files)}: {text}")


def _dotted(error: str) -> str:
    """Path of the key that the parser complains about."""
    return ".".join(key for key in _KEY.findall(error) if key != "config")


def _unknown_key(found: re.Match[str], options: list[str]) -> tuple[str, str]:
    key = found[2] if found[0].startswith("Subcommand") else f"{found[1]}.{found[2]}"
    sections = {option.partition(".")[0] for option in options}
    section = key.partition(".")[0]
    if section not in sections:  # misspelt: what stands in it is of no interest
        return section, f"'{section}' is not a section of a recipe{nearest(section, sections)}"
    return key, f"'{key}' is not a key{nearest(key, options)}"


def _unknown_argument(key: str, error: str, options: list[str]) -> str:
    where, classes = _dotted(error), _CLASS.findall(error)
    names = _arguments(classes[-1]) if classes else options
    owner = f" of {classes[-1].rpartition('.')[2]}" if classes and where else ""
    if key.split(".")[0].replace("-", "_") in ("init_arg", "initargs", "dict_kwargs"):
        names = ["init_args"]
    elif where.endswith(".optimizer"):
        owner, names = "", _optimizer_arguments(error)
    full = f"{where}.{key}" if where else key
    return f"'{full}' is not an argument{owner}{nearest(key.split('.')[0], names)}"


def _wrong_value(text: str, error: str) -> str:
    text = _squeeze(text.strip(" -"))
    if ", got " not in text and (got := re.search(r"Given value: (.*)", error)):
        text = _squeeze(re.sub(r"^Expected an? ", "expected ", text) + f", got {got[1]}")
    return text


def _squeeze(text: str, limit: int = 300) -> str:
    text = " ".join(text.replace("<class '", "").replace("'>", "").split())
    text = re.sub(r"Expected an? (\w+)\. Got value: ", r"expected \1, got ", text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _arguments(class_path: str) -> list[str]:
    """Constructor arguments of a class, those of its bases where it passes them on."""
    module, _, name = class_path.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    return [row.name for row in inspect.signature(cls).parameters.values() if row.kind is not row.VAR_KEYWORD]


def _optimizer_arguments(error: str) -> list[str]:
    found = re.search(r"class_path='([\w.]+)'", error)
    return _arguments(found[1]) if found else []


def _place(word: str, typed: Sequence[str], files: Sequence[str]) -> str:
    """Where a key or a class name was written: on the command line, or in the last file that has it."""
    if any(re.search(rf"(^--|\.){re.escape(word)}(=|$)", given) or given == word for given in typed):
        return "command line"
    for name in reversed(files):
        with Path(name).open(encoding="utf-8") as file:
            if word in _words(yaml.safe_load(file)):
                return name
    return "command line"


def _words(tree: object) -> set[str]:
    if isinstance(tree, dict):
        return {str(key) for key in tree} | set().union(*map(_words, tree.values()))
    if isinstance(tree, list):
        return set().union(*map(_words, tree))
    return {str(tree)}
