"""The shape of the code itself: sizes, names, layers, doors, and nothing of the machine it was written on."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = ("eventdb", "shell")
TEXT_SUFFIXES = {".py", ".md", ".toml", ".slt", ".sql", ".txt", ".csv", ".json", ".cfg", ".run", ""}
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 80
LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"
VAGUE_NAMES = ("util", "utils", "helper", "helpers", "common", "manager", "misc")

PICKLES = ("eventdb/kernels/jit.py",)  # compiled kernels, in a cache directory whose owner and mode it checks

DOORS = {
    "lmdb": ("eventdb/storage/index/kv.py", "eventdb/storage/index/walk.py"),
    "apsw": ("eventdb/catalog.py",),
    "sqlglot": ("eventdb/sql/",),
    "numba": ("eventdb/kernels/",),
    "llvmlite": ("eventdb/kernels/",),
    "pyarrow": ("eventdb/arrow.py", "eventdb/external/"),
    "prompt_toolkit": ("shell/",),
    "wcwidth": ("shell/",),
    "pandas": ("eventdb/result.py",),
    "polars": ("eventdb/result.py",),
    "duckdb": (),
    "pygments": (),
    "sqlalchemy": ("eventdb/sqlalchemy.py",),
}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def text_files() -> Iterator[Path]:
    """Every file of the project that people read: what git tracks, or everything but caches in a plain copy."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        paths = [ROOT / name for name in listed.stdout.splitlines()]
    except (OSError, subprocess.CalledProcessError):
        hidden = ("build", "dist", "__pycache__")
        paths = [
            p for p in ROOT.rglob("*") if not any(x in hidden or x.startswith(".") for x in p.relative_to(ROOT).parts)
        ]
    for path in paths:
        if path.is_file() and path.suffix in TEXT_SUFFIXES and path.name != "LICENSE":
            yield path


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_roots(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(top-level package, line) of every import that runs, lazy ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0], node.lineno


def drop_type_checking(tree: ast.Module) -> ast.Module:
    """The tree without the blocks only type checkers see."""

    class Drop(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
            test = ast.unparse(node.test)
            if test in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                return [self.visit(n) for n in node.orelse]
            return self.generic_visit(node)

    return ast.fix_missing_locations(Drop().visit(tree))


def test_every_file_can_be_read_in_one_sitting() -> None:
    long = {
        relative(path): count
        for path in python_files(*CODE, "tests", "bench")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MAX_FILE_LINES
    }
    assert not long


def test_functions_are_short() -> None:
    long = {}
    for path in python_files(*CODE):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                count = (node.end_lineno or node.lineno) - node.lineno + 1
                if count > MAX_FUNCTION_LINES:
                    long[f"{relative(path)}:{node.name}"] = count
    assert not long


def test_names_say_what_is_inside() -> None:
    vague = [relative(p) for p in python_files(*CODE, "tests", "bench") if p.stem.lower().strip("_") in VAGUE_NAMES]
    vague += [
        f"{relative(path)}:{node.name}"
        for path in python_files(*CODE)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name.lower().endswith(("manager", "utils"))
    ]
    assert not vague


def test_nothing_mentions_the_machine_it_was_written_on() -> None:
    # Written in pieces, so that this file does not mention them either.
    hints = [
        "/" + "work/",
        "/tmp/" + "venv",
        "/tmp/" + "w/",
        "pypi" + ".org",
        "python" + "hosted",
        "index" + "-url",
        "/ro" + "ot/",
    ]
    found = [
        f"{relative(path)}: {hint}"
        for path in text_files()
        for hint in hints
        if hint in path.read_text(encoding="utf-8", errors="replace")
    ]
    assert not found


def test_each_library_has_one_door() -> None:
    strays = []
    for path in python_files(*CODE):
        name = relative(path)
        tree = drop_type_checking(ast.parse(path.read_text(encoding="utf-8")))
        for package, line in imported_roots(tree):
            doors = DOORS.get(package)
            if doors is not None and not any(name == door or name.startswith(door) for door in doors):
                strays.append(f"{name}:{line} imports {package}, whose door is {' or '.join(doors) or 'the tests'}")
    assert not strays


def test_nothing_is_left_to_be_implemented() -> None:
    left = [
        f"{relative(path)}:{node.lineno}"
        for path in python_files(*CODE)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and node.id == "NotImplementedError"
    ]
    assert not left


def test_a_library_without_a_door_is_not_imported() -> None:
    known = {*sys.stdlib_module_names, *DOORS, "eventdb", "numpy"}
    strays = [
        f"{relative(path)}:{line} imports {package}"
        for path in python_files(*CODE)
        for package, line in imported_roots(drop_type_checking(ast.parse(path.read_text(encoding="utf-8"))))
        if package not in known
    ]
    assert not strays


def test_the_shell_imports_its_own_modules_relatively() -> None:
    strays = [
        f"{relative(path)}:{line}"
        for path in python_files("shell")
        for package, line in imported_roots(ast.parse(path.read_text(encoding="utf-8")))
        if package in ("shell", "eventdb_shell")
    ]
    assert not strays


def test_nothing_unsafe_is_deserialised() -> None:
    strays = [
        f"{relative(path)}:{line} imports {package}"
        for path in python_files(*CODE)
        for package, line in imported_roots(ast.parse(path.read_text(encoding="utf-8")))
        if package in ("pickle", "marshal", "shelve", "dill") and relative(path) not in PICKLES
    ]
    assert not strays


def test_imports_point_downward_only() -> None:
    pytest.importorskip("importlinter", reason="import-linter is in the dev extra")
    found = subprocess.run(
        [sys.executable, "-c", LINT_IMPORTS, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-2000:]
