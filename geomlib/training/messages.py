"""One line out of the parser's nested complaints: file, key, what was got, the nearest valid name."""

import importlib
import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from geomlib.errors import nearest

__all__ = ["one_line"]

_KEY = re.compile(r'Parser key "([\w.]+)":')
_CLASS = re.compile(r"Problem with given class_path '([\w.]+)'")
_UNKNOWN = re.compile(r"Option '([^']+)' is not accepted")
_GROUP = re.compile(r"(?:Group|Subcommand) '([^']+)' does not accept option '([^']+)'")
_NO_CLASS = re.compile(r"Expected a dot import path string: ([^.\n]\S*)")
_LEAF = re.compile(r"(Expected (?!a <class 'NoneType'>|a path).*|.*is not a subclass.*|.*is not a correct.*)")


def one_line(
    error: str, words: Sequence[str], files: Sequence[str], known: Iterable[str], options: Iterable[str]
) -> str:
    """Say what is wrong with a recipe or the words of a command line.

    Args:
        error: text of the parser's error.
        words: what was typed.
        files: recipe files, in the order in which they were merged.
        known: short class names.
        options: dotted names of all options outside of classes.
    """
    if found := re.match(r"unrecognized arguments: (\S+)", error.strip(), re.IGNORECASE):
        option = found[1].split("=")[0]
        return f"'{option}' is not an option{nearest(option.lstrip('-'), options)}"
    if "arguments are required" in error or "is required" in error:
        return f"{', '.join(files) or 'command line'}: {_squeeze(error)}; give a recipe with -c"
    if found := re.search(r"File does not exist: '?([^'\n]+)'?", error):
        return f"recipe {found[1]} does not exist"
    if "Problems parsing config" in error:
        return f"{files[-1] if files else 'recipe'}: is not YAML: {_squeeze(error.split(':', 1)[1])}"

    def place(key: str) -> str:
        return _place(key.rpartition(".")[2], words, files)

    options = list(options)
    path = [key for key in _KEY.findall(error) if key != "config"]
    classes = _CLASS.findall(error)
    where = ".".join(path)
    if found := _GROUP.search(error):
        key = found[2] if found[0].startswith("Subcommand") else f"{found[1]}.{found[2]}"
        top = {option.partition(".")[0] for option in options}
        if key.partition(".")[0] not in top:  # a misspelt section: what stands in it is of no interest
            key = key.partition(".")[0]
            return f"{place(key)}: '{key}' is not a section of a recipe{nearest(key, top)}"
        return f"{place(key)}: '{key}' is not a key{nearest(key, options)}"
    if found := _UNKNOWN.search(error):
        key = found[1]
        full = f"{where}.{key}" if where else key
        names = _arguments(classes[-1]) if classes else list(options)
        if "dict_kwargs" in key or key.split(".")[0] in ("init_arg", "initargs", "init-args"):
            names = ["init_args"]
        owner = f" of {classes[-1].rpartition('.')[2]}" if classes and path else ""
        if path and path[-1] == "optimizer":
            owner, names = "", _optimizer_arguments(error)
        return f"{place(key)}: '{full}' is not an argument{owner}{nearest(key.split('.')[0], names)}"
    if found := _NO_CLASS.search(error):
        return f"{place(found[1])}: '{where}' names the class '{found[1]}', which is unknown" + nearest(found[1], known)
    if found := _LEAF.search(error):
        complaint = _squeeze(found[1].strip(" -"))
        if ", got " not in complaint and (got := re.search(r"Given value: (.*)", error)):
            complaint = _squeeze(re.sub(r"^Expected an? ", "expected ", complaint) + f", got {got[1]}")
        return f"{place(where)}: '{where}': {complaint}"
    return f"{', '.join(files) or 'command line'}: {_squeeze(error)}"


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
