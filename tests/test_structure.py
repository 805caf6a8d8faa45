"""The package's shape: who imports whom, what is public, and how long a file may be."""

from __future__ import annotations

import ast
import importlib
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
FILES = sorted((SOURCE / "fitbus").rglob("*.py"))

# What each part may import of the others. `events ← bus ← callbacks`; control knows no event; and
# train knows neither callbacks nor what is built on it.
BELOW = {
    "_error_parts": set[str](),
    "errors": {"_error_parts"},
    "_checks": {"errors"},
    "_files": set[str](),
    "_lists": set[str](),
    "_loops": {"errors"},
    "_columns": set[str](),
    "_costs": {"_columns", "_html"},
    "_html": set[str](),
    "_fields": {"_checks", "errors"},
    "_history": {"_html"},
    "_message": {"_checks", "_fields"},
    "control": {"_checks", "_loops", "_message", "errors"},
    "events": {"_checks", "_message", "control", "errors"},
    "journal": {"_files", "control", "errors", "events"},
    "_stand_ins": {"control", "errors"},
    "bus": {"_checks", "_costs", "_loops", "control", "errors", "events"},
    "callbacks": {"_files", "_html", "bus", "control", "errors", "events"},
    "lazy callbacks": {
        *("_files", "bus", "callbacks", "checkpoints", "control", "errors", "events", "journal"),
        "train",
    },
    "checkpoints": {"_files", "errors", "train"},
    "keras": {"bus", "callbacks", "control", "errors", "events", "train"},
    "train": {
        *("_checks", "_costs", "_history", "_html", "_lists", "_loops", "bus", "control"),
        *("errors", "events", "journal"),
    },
    "client": {"_checks", "_loops", "bus", "control", "errors", "events"},
    "process": {
        *("_history", "_lists", "_loops", "_message", "_stand_ins", "bus", "control", "errors"),
        *("events", "train"),
    },
    "service": {"_loops", "bus", "control", "errors", "events", "journal", "process", "train"},
    "testing": {"_columns", "_loops", "bus", "control", "errors", "events", "train"},
    "examples": {
        "bus",
        "callbacks",
        "checkpoints",
        "control",
        "errors",
        "events",
        "front door",
        "keras",
        "lazy callbacks",
        "service",
        "testing",
        "train",
    },
    "__main__": {"_bench", "_journal_command", "_remote_commands", "_serve_command", "examples"},
    "_remote_commands": {"client", "control", "errors", "events"},
    "_bench": {"_specs", "errors", "testing"},
    "_journal_command": {"errors", "events", "journal"},
    "_serve_command": {"_specs", "errors", "service", "train"},
    "_replaying": {
        *("_lists", "_loops", "_stand_ins", "bus", "control", "errors", "events", "journal"),
    },
    "_specs": {"bus", "errors", "events"},
    "front door": {
        *("_replaying", "bus", "callbacks", "control", "errors", "events", "journal", "process"),
    },
}

# The exceptions: how each is imported ("types": for type checkers only; "lazily": in a function),
# and why.
EXCEPTIONS = {
    ("fitbus.callbacks._background", "fitbus.train", "types"): "whose cancellation it minds",
    ("fitbus.callbacks._callback", "fitbus.train", "types"): "what `run` and `model` are",
    ("fitbus.train._attaching", "fitbus", "lazily"): "`verbose=1`: the door finds the progress bar",
}

# What is heavy or optional, and where it may be imported: at the top, or in functions only.
COMPUTES = {"checkpoints", "examples", "keras", "lazy callbacks", "testing", "train"}
HEAVY: dict[str, set[str]] = dict.fromkeys(("jax", "jaxlib", "numpy", "optax"), COMPUTES)
HEAVY["numpy"] = {*COMPUTES, "process"}  # which reads states, without JAX
OPTIONAL = {
    *(
        "anycorn",
        "fastapi",
        "httpx",
        "keras",
        "matplotlib",
        "orbax",
        "prometheus_client",
        "rich",
        "safetensors",
    ),
    *("sklearn", "sniffio", "starlette", "tensorboard", "trio", "uvicorn"),
}
OPTIONAL_AT_TOP = {
    **{  # private files of a package that needs it, imported lazily
        f"fitbus.service._{name}": {"starlette"}
        for name in ("answers", "app", "page", "rights", "routes", "streams")
    },
    "fitbus.service._metrics": {"prometheus_client"},
    "fitbus.client._line": {"httpx"},
    "fitbus.client._outbox": {"httpx"},
    "fitbus.callbacks._progress_display": {"rich"},  # itself imported lazily
    "fitbus.examples.keras_model": {"keras", "sklearn"},  # a program that needs them
    "fitbus.examples.service_fastapi": {"fastapi", "uvicorn"},  # likewise
    "fitbus.examples.service_starlette": {"anycorn", "starlette"},
    "fitbus.keras": {"keras"},  # its private files, which are imported lazily
}

# Another library's private parts.
PRIVATE_ELSEWHERE = {
    ("fitbus._loops", "anyio._core._eventloop"): "no public way to claim a thread of one's own",
}

# What is shared without being public.
UNLISTED = {
    ("fitbus.errors", "one_of"): "words for messages, in a module that users look into",
}


class Import(NamedTuple):
    """An import statement's module and name, and how it is reached."""

    module: str
    name: str | None
    how: str  # "at the top", "lazily" or "types"
    alias: str | None = None


def module_of(file: Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """The stage that a module belongs to."""
    if module in LAZY_CALLBACKS:
        return "lazy callbacks"
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "front door"


SOURCES = {module_of(file): file.read_text("utf-8") for file in FILES}
TREES = {module: ast.parse(source) for module, source in SOURCES.items()}
# The callbacks that are loaded when they are first asked for may be built on `train`.
_LOADED_LAZILY = tuple(
    str(node.module)
    for branch in TREES["fitbus.callbacks"].body
    if isinstance(branch, ast.If)
    for node in branch.body
    if isinstance(node, ast.ImportFrom)
)
LAZY_CALLBACKS = {  # one of several files has the others' names begin with its own
    module
    for module in TREES
    if module in _LOADED_LAZILY or module.startswith(tuple(f"{lazy}_" for lazy in _LOADED_LAZILY))
}
PACKAGES = sorted(module_of(file) for file in FILES if file.name == "__init__.py")
# Programs to be read and run: they export nothing.
PROGRAMS = {module for module in TREES if part_of(module) == "examples" and module not in PACKAGES}


def imports(module: str) -> Iterator[Import]:
    yield from _imports(TREES[module], "at the top")


def _imports(node: ast.AST, how: str) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, None, how) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            for alias in child.names:
                whole = f"{child.module}.{alias.name}"
                if whole in TREES:
                    yield Import(whole, None, how)
                else:
                    yield Import(str(child.module), alias.name, how, alias.asname)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _imports(child, "lazily")
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            yield from _imports(child, "types")
        else:
            yield from _imports(child, how)


def exported(module: str) -> list[str]:
    """The module's `__all__`, which must be written out."""
    for node in TREES[module].body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "__all__":
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            assert node.value is not None
            found: list[str] = ast.literal_eval(node.value)
            return found
    raise AssertionError(f"{module} has no `__all__`")


def test_imports_follow_the_arrows() -> None:
    """Each part imports only what is below it, in functions too; the exceptions are listed."""
    used: set[tuple[str, str, str]] = set()
    wrong: list[str] = []
    for module in TREES:
        part = part_of(module)
        for found in imports(module):
            if found.module.split(".")[0] != "fitbus" or part_of(found.module) == part:
                continue
            if found.how == "types" and found.module.startswith(f"{module}."):
                continue  # what a package loads lazily itself
            if (module, found.module, found.how) in EXCEPTIONS:
                used.add((module, found.module, found.how))
            elif part_of(found.module) not in BELOW[part]:
                wrong.append(f"{module} imports {found.module} ({found.how})")
    assert not wrong
    assert used == set(EXCEPTIONS), "an exception that nobody needs any more"


def test_every_part_has_its_arrows() -> None:
    assert {part_of(module) for module in TREES} == set(BELOW)


def test_only_what_computes_imports_jax_and_numpy() -> None:
    """Not even in a function, elsewhere: importing fitbus, and watching a run, stays light."""
    wrong = [
        f"{module} imports {found.module} ({found.how})"
        for module in TREES
        for found in imports(module)
        if part_of(module) not in HEAVY.get(found.module.split(".")[0], {part_of(module)})
    ]
    assert not wrong


def test_what_is_optional_is_imported_where_it_is_used() -> None:
    """At the top of a module only where that module is itself loaded lazily."""
    wrong = [
        f"{module} imports {found.module} at the top"
        for module in TREES
        for found in imports(module)
        if found.module.split(".")[0] in OPTIONAL
        and found.how == "at the top"
        and found.module.split(".")[0]
        not in OPTIONAL_AT_TOP.get(module, OPTIONAL_AT_TOP.get(module.rsplit("._")[0], set()))
    ]
    assert not wrong
    eager = {
        found.module
        for module in TREES
        if not module.startswith(("fitbus.client", "fitbus.keras._", "fitbus.service"))
        for found in imports(module)
        if found.how == "at the top"
    }
    assert {module for module in eager if module in OPTIONAL_AT_TOP} == set()
    assert {module for module in eager if module.startswith("fitbus.keras._")} == set()


def test_what_is_imported_is_a_dependency() -> None:
    """What is imported is declared in pyproject.toml, or in the standard library."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    core = {requirement.split(">")[0] for requirement in project["dependencies"]}
    roots = {(found.module.split(".")[0], module) for module in TREES for found in imports(module)}
    allowed = core | OPTIONAL | {"fitbus"} | set(sys.stdlib_module_names)
    assert {entry for entry in roots if entry[0] not in allowed} == set()


def test_nothing_is_imported_by_a_computed_name() -> None:
    """Arrows that a walk over the imports can't see exist at the front door only.

    What a user names on the command line is no arrow.
    """
    users = {
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("importlib.import_module", "__import__", "import_module")
    }
    assert users == {"fitbus", "fitbus._specs", "fitbus.callbacks"}


def test_no_private_module_of_another_package_is_imported() -> None:
    """Packages know each other by their public faces; so do we and the libraries we use."""
    wrong: list[str] = []
    for module in TREES:
        for found in imports(module):
            parts = found.module.split(".")
            own = parts[0] == "fitbus"
            private = any(part.startswith("_") and part != "__future__" for part in parts[1:])
            if own and (parts[1:2] == module.split(".")[1:2] or len(parts) == 2):
                continue  # within a package, or one of the shared files beside the packages
            if private and (module, found.module) not in PRIVATE_ELSEWHERE:
                wrong.append(f"{module} imports {found.module}")
    assert not wrong


def test_what_is_imported_from_a_module_is_in_its_all() -> None:
    wrong = [
        f"{module} imports {found.name} of {found.module}"
        for module in TREES
        for found in imports(module)
        if found.module in TREES and found.module not in PROGRAMS and found.name is not None
        if (found.module, found.name) not in UNLISTED
        if found.name not in exported(found.module)
    ]
    assert not wrong


def test_all_is_written_out_sorted_and_true() -> None:
    """`__all__` is a literal, constants first, without doubles, and each name is there."""
    for module in TREES:
        if module not in PROGRAMS:
            names = exported(module)
            assert names == sorted(set(names), key=lambda name: (not name.isupper(), name)), module
            loaded = importlib.import_module(module)
            assert [name for name in names if not hasattr(loaded, name)] == [], module


@pytest.mark.parametrize("package", PACKAGES)
def test_all_of_a_package_is_what_its_file_makes_public(package: str) -> None:
    """What an `__init__` imports from its own files or defines is in `__all__`, and no more."""
    public: set[str] = set()
    for found in imports(package):
        own = found.module == "fitbus" or found.module.startswith("fitbus.")
        if own and found.how != "lazily":
            public.add(found.alias or found.name or found.module.split(".")[-1])
    for node in TREES[package].body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            public.add(node.name)
    assert set(exported(package)) == {name for name in public if not name.startswith("_")}


def test_public_names_say_where_they_live() -> None:
    """A public package's files are private, so each name has one place to be imported from."""
    stages = {"errors", "events", "bus", "control", "train", "callbacks", "lazy callbacks"}
    stages |= {"client", "journal", "process", "service"}
    stages |= {"checkpoints", "keras", "testing", "examples"}
    assert {part_of(m) for m in TREES if not part_of(m).startswith("_")} == {*stages, "front door"}
    files = {m for m in TREES if m.count(".") == 2 and part_of(m) != "examples"}
    assert {m for m in files if not m.split(".")[2].startswith("_")} == set()


def test_no_file_is_longer_than_300_lines() -> None:
    """One concept, one file: a longer one is asking to be two."""
    lengths = {module: len(source.splitlines()) for module, source in SOURCES.items()}
    assert {module: length for module, length in lengths.items() if length > 300} == {}
