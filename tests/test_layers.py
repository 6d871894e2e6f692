"""The imports of the package, held against the layers table of docs/design/house.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "hive"
LAZY = frozenset({"anthropic", "asyncpg", "jinja2", "opentelemetry", "starlette", "uvicorn"})


@dataclass(frozen=True)
class Layer:
    """A row of the table. `units` are modules or packages; ``x*`` stands for ``x`` and every ``x_...``."""

    number: int
    units: tuple[str, ...]
    below: frozenset[int]
    protocols: frozenset[str]
    each_other: bool


@dataclass(frozen=True)
class Arrow:
    """One import of something in the package: module `source` imports module `target`, both without ``hive.``."""

    source: str
    target: str
    line: int


def layers() -> list[Layer]:
    page = (ROOT / "docs" / "design" / "house.md").read_text("utf-8")
    rows = page.split("\n| layer | modules | may import | each other |\n|---|---|---|---|\n", 1)[1].split("\n\n", 1)[0]
    return [_layer(*(cell.strip() for cell in row.strip("|").split("|"))) for row in rows.splitlines()]


def _layer(name: str, units: str, below: str, each_other: str) -> Layer:
    protocols = re.search(r"only the protocols of ([\w, ]+)", below)
    return Layer(
        number=int(name.split(maxsplit=1)[0]),
        units=tuple(unit.strip(" `") for unit in units.split(",")),
        below=frozenset(int(digit) for digit in re.findall(r"\d", below)),
        protocols=frozenset(protocols[1].split(", ") if protocols else ()),
        each_other=each_other == "yes",
    )


LAYERS = layers()
SOURCES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """Return ``store.sqlite`` for hive/store/sqlite.py, ``store`` for its package, ``__init__`` for hive itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = frozenset(module_of(path) for path in SOURCES)


def place_of(module: str) -> tuple[Layer, str] | None:
    """Return the layer of a module and the unit it belongs to."""
    top = module.partition(".")[0]
    for layer in LAYERS:
        for unit in layer.units:
            if top == unit or (unit.endswith("*") and (top + "_").startswith(unit[:-1] + "_")):
                return layer, unit
    return None


def arrows(source: str, text: str) -> Iterator[Arrow]:
    """Yield the imports of the package in a module's text, wherever they stand."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "hive":
                    yield Arrow(source, alias.name.partition(".")[2] or "__init__", node.lineno)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}:{node.lineno}: imports name the whole path"
            package, _, inner = (node.module or "").partition(".")
            if package == "hive":
                for alias in node.names:
                    yield Arrow(source, _target(inner, alias.name), node.lineno)


def _target(inner: str, name: str) -> str:
    """Return the module an imported name comes from: a module of that name, or else where it is defined."""
    whole = f"{inner}.{name}" if inner else name
    if whole in MODULES:
        return whole
    # `from hive import __version__` asks for a constant that anybody may know.
    return inner or ("model" if name.startswith("__") else "__init__")


def complaint(arrow: Arrow) -> str | None:
    """Say what is wrong with an import, or None."""
    source, target = place_of(arrow.source), place_of(arrow.target)
    assert source is not None, f"{arrow.source} stands in no layer of docs/design/house.md"
    assert target is not None, f"{arrow.target} stands in no layer of docs/design/house.md"
    (upper, here), (lower, there) = source, target
    text = f"hive.{arrow.source}:{arrow.line} imports hive.{arrow.target}"
    if here == there:
        return None
    if upper.number == lower.number:
        return None if upper.each_other else f"{text}: layer {upper.number} modules may not import each other"
    if lower.number not in upper.below:
        return f"{text}: layer {upper.number} may not import layer {lower.number}"
    if there in upper.protocols and arrow.target != there:
        return f"{text}: of {there} layer {upper.number} may import only the protocol"
    return None


def test_no_import_points_up() -> None:
    """Every import in the package goes where the table allows it, also inside functions and for types only."""
    found = [complaint(arrow) for path in SOURCES for arrow in arrows(module_of(path), path.read_text("utf-8"))]
    assert [one for one in found if one] == []


def test_every_module_stands_in_the_table() -> None:
    """A new module gets a layer before it gets importers."""
    assert sorted(module for module in MODULES if place_of(module) is None) == []


def test_the_table_names_nothing_that_is_gone() -> None:
    """A module that was removed or renamed leaves the page as well."""
    tops = {module.partition(".")[0] for module in MODULES}
    assert sorted(unit for layer in LAYERS for unit in layer.units if unit.rstrip("*") not in tops) == []


def test_no_module_stands_in_two_layers() -> None:
    """Each name has one place."""
    units = [unit for layer in LAYERS for unit in layer.units]
    assert len(units) == len(set(units))


@pytest.mark.parametrize(
    ("source", "text", "told"),
    [
        ("model", "from hive.store import Store", "layer 0 may not import layer 1"),
        ("clock", "def f():\n    import hive.supervisor", "layer 0 may not import layer 3"),
        ("bus", "from hive import store", "layer 1 modules may not import each other"),
        ("store", "from hive.agent.claude import x", "layer 1 modules may not import each other"),
        ("worker", "from hive.store.sqlite import SqliteStore", "only the protocol"),
        ("worker", "import hive.agent.claude", "layer 1|only the protocol"),
        ("queen", "if TYPE_CHECKING:\n    from hive.cli import x", "layer 3 may not import layer 4"),
        ("queen", "import hive", "layer 3 may not import layer 4"),
    ],
)
def test_an_arrow_that_points_up_is_found(source: str, text: str, told: str) -> None:
    """The checker sees every way of importing."""
    complaints = [complaint(arrow) for arrow in arrows(source, text)]
    assert any(one and re.search(told, one) for one in complaints), complaints


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("worker", "from hive.store import Store"),
        ("store.sqlite", "from hive.store.rows import x\nfrom hive.model import Task"),
        ("config_file", "from hive.config_schema import x"),
        ("queen", "from hive.shard import x\nfrom hive import __version__"),
        ("cli", "from hive import supervisor"),
        ("model", "import sqlite3\nfrom hivemind import x"),
    ],
)
def test_an_arrow_that_points_down_is_left_alone(source: str, text: str) -> None:
    """The checker does not complain of what the table allows."""
    assert [complaint(arrow) for arrow in arrows(source, text) if complaint(arrow)] == []


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_slow_and_optional_libraries_are_imported_inside_functions(path: Path) -> None:
    """Nobody waits two seconds for, or fails without, a library their command does not use."""
    assert sorted(LAZY & set(imported_at_once(ast.parse(path.read_text("utf-8"))))) == []


def test_an_import_at_once_is_found_wherever_it_hides() -> None:
    """In a branch or a class body it runs at import; in a function or for types only it does not."""
    hidden = "try:\n    import anthropic.types\nexcept ImportError: pass\nclass A:\n    from asyncpg import x"
    harmless = (
        "if TYPE_CHECKING:\n    import starlette\ndef f():\n    import uvicorn\nasync def g():\n    import jinja2"
    )
    assert set(imported_at_once(ast.parse(f"{hidden}\n{harmless}"))) == {"anthropic", "asyncpg"}


def imported_at_once(node: ast.AST) -> Iterator[str]:
    """Yield the top names of what runs as an import when the module is imported."""
    match node:
        case ast.Import(names=names):
            yield from (alias.name.partition(".")[0] for alias in names)
        case ast.ImportFrom(module=str(module)):
            yield module.partition(".")[0]
        case ast.If(test=ast.Name("TYPE_CHECKING")):
            for branch in node.orelse:
                yield from imported_at_once(branch)
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
            return
        case _:
            for child in ast.iter_child_nodes(node):
                yield from imported_at_once(child)
