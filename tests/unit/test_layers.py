"""The architecture, held by reading the source: who may import whom, and what is done nowhere or in one place only.

Every rule is a function from a parsed module to complaints. Each is run over the whole package and, so that it can
not rot into one that sees nothing, over a line that breaks it.
"""

import ast
import graphlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import geomlib
from geomlib.cli import VERBS

PACKAGE = Path(geomlib.__file__).parent

BASE = {"errors", "units", "memory"}
MAY_IMPORT = {
    "errors": set(),
    "allocator": set(),
    "units": {"errors"},
    "memory": {"errors"},
    "data": BASE,
    "graphs": BASE | {"data"},
    "nn": BASE | {"data", "graphs"},
    "models": BASE | {"data", "graphs", "nn"},
    "files": BASE | {"data", "graphs", "nn", "models"},
    "tasks": BASE | {"data", "graphs", "nn", "models", "files"},
    "training": BASE | {"data", "graphs", "nn", "models", "files", "tasks"},
    "apply": BASE | {"data", "graphs", "nn", "models", "files"},
    "testing": BASE | {"data", "graphs", "nn", "models", "files", "apply"},
    "commands": BASE | {"data", "graphs", "nn", "models", "files", "tasks", "training", "apply"},
    "cli": {"errors", "allocator"},
    "__main__": {"cli"},
    "__init__": set(),
}
"""Part of the package → the other parts that it may import."""

EXTERNAL = {
    "lightning": ("data.module", "data.text_module", "tasks.", "training."),
    "ase": ("data.", "apply.", "testing."),
    "rdkit": (
        "data.descriptors",
        "data.molecular_features",
        "data.molecules",
        "data.rdkit_smiles",
        "data.tokens",
        "data.zinc",
        "apply.",
        "testing.",
    ),
    "hypothesis": ("testing.",),
    "selfies": ("data.selfies_tokens",),
    "umap": ("apply.embedding_map",),
}
"""Package from outside → the modules that may import it; `a.` stands for everything below."""

WITHOUT_ASE = {"data.fields", "data.graph", "data.samplers", "data.splits", "data.module", "data.stores", "data.flat"}
FORBIDDEN_IMPORTS = {"pytorch_lightning", "dill", "cloudpickle", "joblib", "marshal", "shelve", "requests"}
FORBIDDEN_CALLS = {
    "torch.set_default_dtype",
    "torch.set_default_device",
    "torch.set_default_tensor_type",
    "torch.jit.script",
    "logging.basicConfig",
    "warnings.simplefilter",
    "np.random.seed",
    "random.seed",
    "yaml.load",
    "eval",
    "exec",
}
AT_IMPORT_ONLY = {"torch.manual_seed", "seed_everything", "torch.set_num_threads", "torch.set_float32_matmul_precision"}
VAGUE_NAMES = ("util", "helper", "common", "manager", "misc", "tool")


@dataclass(frozen=True)
class Source:
    """A module: its dotted name below `geomlib` and its syntax tree."""

    name: str
    tree: ast.Module

    @property
    def part(self) -> str:
        return self.name.split(".")[0]

    @property
    def is_package(self) -> bool:
        return (PACKAGE / self.name.replace(".", "/")).is_dir()


def read(path: Path) -> Source:
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return Source(name.removesuffix(".__init__"), ast.parse(path.read_text(encoding="utf-8"), str(path)))


SOURCES = [read(path) for path in sorted(PACKAGE.rglob("*.py")) if not {"_recipes", "_datasets"} & set(path.parts)]
NAMES = {source.name for source in SOURCES}


def nodes(tree: ast.AST, inside_functions: bool = True) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker reads."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
        elif inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            pending.extend(ast.iter_child_nodes(node))


def imports(source: Source, inside_functions: bool = True) -> Iterator[tuple[str, str, int]]:
    """(dotted module, imported name or "", line) of every import."""
    for node in nodes(source.tree, inside_functions):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, "", node.lineno
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield "." * node.level + (node.module or ""), alias.name, node.lineno


def own_imports(source: Source, inside_functions: bool = True) -> Iterator[tuple[str, int]]:
    """Names below `geomlib` of the imported own modules, `__init__` for the package itself."""
    for module, name, line in imports(source, inside_functions):
        if module != "geomlib" and not module.startswith("geomlib."):
            continue
        dotted = f"{module}.{name}".removeprefix("geomlib").strip(".")
        while dotted and dotted not in NAMES:
            dotted = dotted.rpartition(".")[0]
        yield dotted or "__init__", line


def calls(source: Source, inside_functions: bool = True) -> Iterator[tuple[str, ast.Call]]:
    for node in nodes(source.tree, inside_functions):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def direction(source: Source) -> Iterator[str]:
    if source.part not in MAY_IMPORT:
        yield f"{source.name}: part '{source.part}' is not in the table of layers"
        return
    for name, line in own_imports(source):
        part = name.split(".")[0]
        if part not in MAY_IMPORT[source.part] | {source.part, "__init__"}:
            yield f"{source.name}:{line} imports {name}"


def families(source: Source) -> Iterator[str]:
    """A family folder of models/ never imports another one."""
    parts = source.name.split(".")
    if parts[0] != "models" or len(parts) < 3:
        return
    for name, line in own_imports(source):
        other = name.split(".")
        if other[0] == "models" and len(other) > 2 and other[1] != parts[1]:
            yield f"{source.name}:{line} imports family {other[1]}"


def outside(source: Source) -> Iterator[str]:
    for module, name, line in imports(source):
        top = module.split(".")[0]
        places = EXTERNAL.get(top)
        if places is not None and not any(f"{source.name}.".startswith(f"{place.rstrip('.')}.") for place in places):
            yield f"{source.name}:{line} imports {top}"
        if top in {"ase", "rdkit"} and source.name in WITHOUT_ASE:
            yield f"{source.name}:{line} imports {top}"
        if top in FORBIDDEN_IMPORTS:
            yield f"{source.name}:{line} imports {top}"
        if top == "pickle" and not (source.part == "files" and name == "UnpicklingError"):
            yield f"{source.name}:{line} imports pickle"
        if module.startswith("."):
            yield f"{source.name}:{line} imports relatively"


def standard_library_first(source: Source) -> Iterator[str]:
    """The command line imports nothing heavy before it knows what it is to do."""
    light = {"cli", "commands", "errors", "allocator", "__init__"}
    if source.part not in light | {"__main__"}:
        return
    for module, _, line in imports(source, inside_functions=False):
        if module.split(".")[0] not in sys.stdlib_module_names | {"geomlib"}:
            yield f"{source.name}:{line} imports {module} at module level"
    for name, line in own_imports(source, inside_functions=False):
        if name.split(".")[0] not in light:
            yield f"{source.name}:{line} imports {name} at module level"


def calls_nowhere(source: Source) -> Iterator[str]:
    for name, node in calls(source):
        if name in FORBIDDEN_CALLS:
            yield f"{source.name}:{node.lineno} calls {name}"
        if name == "print" and source.part not in {"cli", "commands"}:
            yield f"{source.name}:{node.lineno} prints"
        if name.endswith("torch.load") and source.part != "files":
            yield f"{source.name}:{node.lineno} calls torch.load outside files/"
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name.endswith("torch.load") and keywords.get("weights_only") != "True":
            yield f"{source.name}:{node.lineno} calls torch.load without weights_only=True"
        if name in {"np.load", "numpy.load"} and keywords.get("allow_pickle") != "False":
            yield f"{source.name}:{node.lineno} calls numpy.load without allow_pickle=False"
    for name, node in calls(source, inside_functions=False):
        if name.split(".")[-1] in {full.split(".")[-1] for full in AT_IMPORT_ONLY}:
            yield f"{source.name}:{node.lineno} calls {name} at import"


def warning_filters(source: Source) -> Iterator[str]:
    """A warning filter is set only for a stretch of code, inside `with warnings.catch_warnings()`."""
    scoped = {
        id(inner)
        for node in nodes(source.tree)
        if isinstance(node, ast.With) and "catch_warnings" in ast.unparse(node.items[0])
        for inner in ast.walk(node)
    }
    for name, node in calls(source):
        if name == "warnings.filterwarnings" and id(node) not in scoped:
            yield f"{source.name}:{node.lineno} sets a warning filter for the whole process"


def broad_handlers(source: Source) -> Iterator[str]:
    """`except Exception` may only tidy up and raise."""
    for node in nodes(source.tree):
        if isinstance(node, ast.ExceptHandler):
            caught = "everything" if node.type is None else ast.unparse(node.type)
            broad = caught in {"everything", "Exception", "BaseException"}
            if broad and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node)):
                yield f"{source.name}:{node.lineno} catches {caught}"
        if (
            isinstance(node, ast.Call)
            and "suppress" in ast.unparse(node.func)
            and "Exception" in map(ast.unparse, node.args)
        ):
            yield f"{source.name}:{node.lineno} suppresses every exception"


def vague_names(source: Source) -> Iterator[str]:
    for word in source.name.split("."):
        if any(vague in word for vague in VAGUE_NAMES):
            yield f"{source.name}: '{word}' does not say what is in it"


RULES: dict[Callable[[Source], Iterator[str]], tuple[tuple[str, str], ...]] = {
    direction: (
        ("graphs.radius", "from geomlib.models.base import Net"),
        ("data.stores", "def f():\n    import geomlib.graphs.spec"),
        ("apply.ase", "from geomlib.tasks import potential"),
        ("models.base", "from geomlib.files.modelfile import load"),
        ("sidecar", "x = 1"),
    ),
    families: (("models.dpa3.net", "from geomlib.models.sphnet.blocks import Block"),),
    outside: (
        ("apply.ase", "import lightning"),
        ("tasks.base", "from pytorch_lightning import Trainer"),
        ("models.dpa3.net", "from ase import Atoms"),
        ("data.graph", "import ase"),
        ("data.stores", "import pickle"),
        ("files.modelfile", "from pickle import loads"),
        ("files.modelfile", "from .manifest import read"),
    ),
    standard_library_first: (
        ("commands.md", "import numpy as np"),
        ("cli", "from geomlib.data.fields import FIELDS"),
    ),
    calls_nowhere: (
        ("nn.mlp", "print('x')"),
        ("nn.mlp", "torch.set_default_dtype(torch.float64)"),
        ("nn.mlp", "torch.manual_seed(0)"),
        ("apply.ase", "def f(p):\n    return torch.load(p, weights_only=True)"),
        ("files.checkpoint", "def f(p):\n    return torch.load(p, weights_only=False)"),
        ("data.flat", "def f(p):\n    return np.load(p)"),
        ("commands.md", "logging.basicConfig()"),
    ),
    warning_filters: (("nn.mlp", "warnings.filterwarnings('ignore')"),),
    broad_handlers: (
        ("nn.mlp", "try:\n    f()\nexcept Exception:\n    pass"),
        ("nn.mlp", "try:\n    f()\nexcept:\n    x = 1"),
    ),
    vague_names: (("data.utils", ""), ("nn.attention_helpers", "")),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_package_keeps_the_rule(rule):
    complaints = [complaint for source in SOURCES for complaint in rule(source)]
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [(rule, name, text) for rule, examples in RULES.items() for name, text in examples],
)
def test_rule_sees_a_breach(rule, name, text, monkeypatch):
    monkeypatch.setitem(globals(), "NAMES", {*NAMES, "models.sphnet.blocks", "files.modelfile", "tasks.potential"})
    assert list(rule(Source(name, ast.parse(text))))


def test_rules_allow_what_is_right():
    fine = Source("apply.ase", ast.parse("from ase import Atoms\nfrom geomlib.files import load\nimport torch\n"))
    checked_load = "def f(p):\n    return np.load(p, allow_pickle=False)"
    for source in (fine, Source("data.flat", ast.parse(checked_load))):
        assert [complaint for rule in RULES for complaint in rule(source)] == []


def test_no_import_cycles():
    """Imports at module level form no circle, so every module can be imported first."""
    edges = {
        source.name: {name for name, _ in own_imports(source, inside_functions=False)} - {"__init__", source.name}
        for source in SOURCES
    }
    assert list(graphlib.TopologicalSorter(edges).static_order())


def test_every_verb_has_a_module_and_every_module_a_verb():
    functions = {
        source.name.split(".")[1]: {node.name for node in source.tree.body if isinstance(node, ast.FunctionDef)}
        for source in SOURCES
        if source.name.startswith("commands.")
    }
    assert {name for name, found in functions.items() if {"configure", "run"} <= found} == {
        verb.module for verb in VERBS.values()
    }
