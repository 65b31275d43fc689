"""The form of the code: who may import whom, what may be touched where, and docstrings.

Read from the syntax tree, so that no import has to be run. The arrows:

    errors <- core <- protocol
              core <- store          (protocol and store never see each other)
    all of these <- actors <- web <- daemon <- cli
    errors, core, protocol <- client <- sync, scenario, pytest_plugin
"""

import ast
import random
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import trio

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "msg").rglob("*.py"))

# part of msg/ -> the parts that it may import (itself always)
PLAIN = {"errors", "core"}
ALL = {"errors", "core", "protocol", "store", "config", "world", "actors"}
ARROWS: dict[str, set[str]] = {
    "__init__": {"client", "sync"},  # public names, imported when they are asked for
    "errors": set(),
    "core": {"errors"},
    "protocol": PLAIN,
    "store": PLAIN,
    "config": PLAIN,
    "world": PLAIN | {"store"},
    "actors": ALL | {"__init__"},  # the version, which is told to clients
    "show": PLAIN,
    "metrics": ALL,
    "spans": ALL,
    "web": ALL | {"__init__", "metrics", "show"},
    "daemon": ALL | {"__init__", "metrics", "spans", "web", "show"},
    "plain_client": {"errors"},
    # clients and what stands on them see the wire, never the actors
    "client": {"__init__", "errors", "core", "protocol"},
    "sync": {"__init__", "errors", "client"},
    "scenario": ALL | {"client", "daemon", "plain_client", "show"},
    "pytest_plugin": ALL | {"client", "sync", "scenario", "daemon"},
    "bench": set(),  # sockets and processes: it sees the wire only
    "cli": {
        "__init__",
        "bench",
        "errors",
        "config",
        "daemon",
        "plain_client",
        "scenario",
        "store",
        "show",
    },
    "__main__": {"cli"},
    "broker": {"cli"},
}
TRIO = {"actors", "client", "sync", "scenario", "daemon", "cli", "web", "world", "pytest_plugin"}
# clock, randomness, disk and ids come through a seam; these are the seams, and the outer
# programs, which run in the real world only
SEAMS = {"bench", "world", "daemon", "cli", "plain_client", "client", "sync", "config"}
SEAM_FILES = {"msg/store/disk.py", "msg/scenario/engine_process.py", "msg/scenario/child.py"}
GUARDED_MODULES = {"time", "random", "uuid", "secrets", "datetime"}
GUARDED_CALLS = {"open"}
PURE_USES = {  # module -> what may be taken of it: no clock in it
    "datetime": {"datetime", "timedelta", "timezone", "UTC"},
    "random": {"Random"},  # as a type: the generator itself is an argument
}


def part_of(path: Path) -> str:
    """`msg/core/ledger.py` -> core, `msg/world.py` -> world."""
    inside = path.relative_to(ROOT / "msg").parts
    return inside[0].removesuffix(".py")


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(tree: ast.Module) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """(module, names taken from it, line) of every import, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, (), node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            yield node.module or "", tuple(alias.name for alias in node.names), node.lineno


def our_parts(module: str, names: tuple[str, ...]) -> Iterator[str]:
    """The parts of msg that an import reaches."""
    first, _, rest = module.partition(".")
    if first != "msg":
        return
    if rest:
        yield rest.partition(".")[0]
    else:
        known = {part_of(path) for path in FILES}
        yield from (name if name in known else "__init__" for name in names or ("__init__",))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_imports_go_along_the_arrows():
    wrong = []
    for path in FILES:
        part = part_of(path)
        assert part in ARROWS, f"{relative(path)}: say in ARROWS what {part} may import"
        for module, names, line in imports(parse(path)):
            for target in our_parts(module, names):
                if target != part and target not in ARROWS[part]:
                    wrong.append(f"{relative(path)}:{line}: {part} imports {target}")
    assert wrong == []


def test_contributing_tells_the_same_arrows():
    """Its table has a row for each part, and nothing in it that is not allowed."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("| part of `msg/` |")[2].partition("\n\n")[0]
    told: dict[str, set[str]] = {}
    for row in table.splitlines()[2:]:
        names, _, may = row.strip("| ").split(" | ")
        for name in re.findall(r"`(\w+)(?:\.py|/)`", names):
            told[name] = set(re.findall(r"`(\w+)`", may))
    assert told.keys() == ARROWS.keys()
    assert [name for name, parts in told.items() if not parts <= ARROWS[name]] == []


def test_only_waiting_parts_import_trio():
    wrong = [
        f"{relative(path)}:{line}"
        for path in FILES
        for module, _, line in imports(parse(path))
        if module.partition(".")[0] in ("trio", "trio_util", "anyio", "asyncio")
        and part_of(path) not in TRIO
    ]
    assert wrong == []


def test_rules_do_not_wait():
    waiting = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    wrong = [
        f"{relative(path)}:{node.lineno}"
        for path in FILES
        if part_of(path) in ("core", "protocol", "store", "config", "errors")
        for node in ast.walk(parse(path))
        if isinstance(node, waiting)
    ]
    assert wrong == []


def test_clock_chance_and_disk_come_through_the_seams():
    wrong = []
    for path in FILES:
        if part_of(path) in SEAMS or relative(path) in SEAM_FILES:
            continue
        tree = parse(path)
        for module, names, line in imports(tree):
            if module in GUARDED_MODULES and not (
                names and set(names) <= PURE_USES.get(module, set())
            ):
                # `import random` for annotations only: no call on the module itself
                if module == "random" and not names and not _uses_module_functions(tree):
                    continue
                wrong.append(f"{relative(path)}:{line}: {module}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id in GUARDED_CALLS:
                    wrong.append(f"{relative(path)}:{node.lineno}: {node.func.id}()")
            elif isinstance(node, ast.Attribute) and _is_clock(node):
                wrong.append(f"{relative(path)}:{node.lineno}: {ast.unparse(node)}")
    assert wrong == []


def _is_clock(node: ast.Attribute) -> bool:
    named = isinstance(node.value, ast.Name) and node.value.id in ("datetime", "date")
    return named and node.attr in ("now", "utcnow", "today")


def _uses_module_functions(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "random"
        and node.attr != "Random"
        for node in ast.walk(tree)
    )


def test_rules_never_walk_a_set():
    """A set of str has another order in each process: a seeded run would not repeat."""
    wrong = []
    for path in FILES:
        if part_of(path) not in ("core", "protocol", "store", "actors"):
            continue
        for node in ast.walk(parse(path)):
            loops = []
            if isinstance(node, ast.For):
                loops = [node.iter]
            elif isinstance(node, ast.ListComp | ast.DictComp | ast.GeneratorExp):
                loops = [generator.iter for generator in node.generators]
            for loop in loops:
                if _is_set(loop):
                    wrong.append(f"{relative(path)}:{loop.lineno}")
    assert wrong == []


def _is_set(node: ast.expr) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id in ("set", "frozenset")
    return isinstance(node, ast.Set | ast.SetComp)


@pytest.mark.parametrize("folder", ["msg", "tests"])
def test_every_module_says_what_it_is_for(folder):
    silent = [
        relative(path)
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.stat().st_size and not ast.get_docstring(parse(path))
    ]
    assert silent == []


def test_no_unfinished_business():
    words = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
    wrong = [
        f"{relative(path)}:{number}"
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if any(word in line for word in words)
    ]
    assert wrong == []


def test_trio_still_has_what_seeded_runs_need():
    """Two private names; STYLE.md section 3. pyproject.toml's upper bound goes as far as this."""
    run = trio._core._run
    assert isinstance(run._ALLOW_DETERMINISTIC_SCHEDULING, bool)
    assert isinstance(run._r, random.Random)
