"""The layers: a module imports its own layer and those below, and each third party is known in a few places only."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "s3bulkcopy"

#: The layers from top to bottom, by the first name below the package.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"commands"},
    {"run", "options", "demo", "emulator", "status", "failures", "interrupts", "keylists"},
    {"engines", "view"},
    {"aws"},
    {"costs"},
    {"journal", "tally", "errors", "settings"},
    {"worker"},
    {""},  # the package itself: its version
)

#: Who may import what is not in the standard library.
THIRD_PARTIES = {
    "click": {"cli", "options"},
    "rich": {"view", "cli"},
    "boto3": {"aws", "engines", "emulator", "demo"},
    "botocore": {"aws", "engines", "emulator", "demo"},
    "tenacity": {"aws", "engines"},
    "ministack": {"emulator"},
}

#: Names of types that may be imported upwards.
UPWARDS = {("view", "run"), ("view", "failures")}


@dataclass(frozen=True, slots=True)
class Import:
    """A module imported by another; `typing_only` where it is so for annotations alone."""

    by: str
    module: str
    typing_only: bool


def imports(path: Path) -> Iterator[Import]:
    """Give every import of a module, wherever it stands in it."""
    by = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    todo: list[tuple[ast.AST, bool]] = [(ast.parse(path.read_text()), False)]
    while todo:
        node, typing_only = todo.pop()
        match node:
            case ast.Import(names):
                yield from (Import(by, name.name, typing_only) for name in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                whole = module == PACKAGE.name
                yield from (Import(by, f"{module}.{n.name}" if whole else module, typing_only) for n in names)
            case ast.ImportFrom():
                raise AssertionError(f"{by}: a relative import")
            case ast.If(test=ast.Name("TYPE_CHECKING"), body=body, orelse=orelse):
                todo += [(inner, True) for inner in body] + [(inner, typing_only) for inner in orelse]
            case _:
                todo += [(inner, typing_only) for inner in ast.iter_child_nodes(node)]


def part(module: str) -> str:
    """Give the part of the package that a module belongs to: the first name below it."""
    first = module.split(".")[1:2]
    known = set().union(*LAYERS)
    return first[0] if first and (first[0] in known or (PACKAGE / f"{first[0]}.py").exists()) else ""


def layer(module: str) -> int:
    """Give the place of a module's layer, from the top."""
    places = [n for n, parts in enumerate(LAYERS) if part(module) in parts]
    assert places, f"{module} is in no layer"
    return places[0]


MODULES = sorted(PACKAGE.rglob("*.py"))
EVERY_IMPORT = [one for path in MODULES for one in imports(path)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_its_own_layer_and_those_below(path: Path) -> None:
    ours = [one for one in imports(path) if one.module.split(".")[0] == PACKAGE.name]
    upwards = [
        one
        for one in ours
        if layer(one.module) < layer(one.by) and not (one.typing_only and (part(one.by), part(one.module)) in UPWARDS)
    ]

    assert upwards == []


def test_third_parties_are_imported_where_they_belong_only() -> None:
    strangers = [
        one
        for one in EVERY_IMPORT
        if not one.typing_only
        and (top := one.module.split(".")[0]) not in sys.stdlib_module_names | {PACKAGE.name}
        and part(one.by) not in THIRD_PARTIES.get(top, set())
    ]

    assert strangers == []


def test_the_worker_imports_the_standard_library_and_itself_only() -> None:
    strangers = [
        one
        for one in EVERY_IMPORT
        if part(one.by) == "worker" and one.module.split(".")[0] not in sys.stdlib_module_names and part(one.module) != "worker"
    ]

    assert strangers == []


def test_settings_import_nothing_of_ours() -> None:
    assert [one for one in EVERY_IMPORT if part(one.by) == "settings" and one.module.split(".")[0] == PACKAGE.name] == []
