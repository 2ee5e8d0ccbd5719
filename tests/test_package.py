"""The package as a user gets it: names, import weight, types, the wheel, the README."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import eventdb

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("numpy", "pyarrow", "numba", "sqlglot", "pandas", "polars", "prompt_toolkit")
SLOW = ("dataclasses", "inspect", "logging", "asyncio", "concurrent.futures", "pathlib", "uuid")
README_COMMANDS = ["pip install . && eventdb demo", 'pip install -e ".[dev]" && pytest']


def run_python(code: str, *arguments: str) -> str:
    """The output of a fresh interpreter; what it loaded is not what this one loaded."""
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=ROOT, timeout=120
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def heavy_modules(code: str, *arguments: str) -> set[str]:
    """The heavy or slow modules a program loads, without those an empty one loads (an editable install brings some)."""
    loaded = set(run_python(code, *arguments).split()) - set(run_python("import sys; print(*sys.modules)").split())
    return loaded & {*HEAVY, *SLOW}


def test_every_public_name_loads() -> None:
    assert sorted(eventdb.__all__) == list(eventdb.__all__)
    for name in eventdb.__all__:
        assert getattr(eventdb, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = eventdb.nonsense  # type: ignore[attr-defined]


def test_every_error_is_exported() -> None:
    errors = importlib.import_module("eventdb.errors")
    defined = {n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, eventdb.EventDBError)}
    assert defined <= set(eventdb.__all__)


def test_importing_eventdb_loads_nothing_heavy() -> None:
    assert heavy_modules("import eventdb, sys; print(*sys.modules)") == set()


APPEND_AND_READ = """
import sys, eventdb
with eventdb.open(sys.argv[1]) as db:
    t = db.create_topic("t", {"name": "VARCHAR", "n": "BIGINT", "x": "DOUBLE"}, key="name")
    t.append({"name": "a", "n": 1, "x": 0.5})
    t.append_many([{"name": "b", "n": 2, "x": None}])
    assert [e["name"] for e in t.read()] == ["a", "b"]
print(*sys.modules)
"""


def test_appending_and_reading_dicts_loads_nothing_heavy(tmp_path: Path) -> None:
    assert heavy_modules(APPEND_AND_READ, str(tmp_path / "a.eventdb")) == set()


def test_the_version_is_a_literal() -> None:
    tree = ast.parse((ROOT / "eventdb/__init__.py").read_text(encoding="utf-8"))
    values = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__version__"]
    assert [ast.literal_eval(value) for value in values] == [eventdb.__version__]


def test_the_folder_shell_is_not_what_users_import() -> None:
    shell = importlib.import_module("eventdb_shell")
    assert Path(str(shell.__file__)).parent.name in ("shell", "eventdb_shell")
    assert "shell" not in sys.modules


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy so that the source tree stays clean."""
    pytest.importorskip("build", reason="build is in the dev extra")
    pytest.importorskip("setuptools", reason="setuptools is in the dev extra")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in ("eventdb", "shell", "tests", "bench"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_two_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    roots = {name.split("/")[0] for name in names}
    assert roots == {"eventdb", "eventdb_shell", f"eventdb-{eventdb.__version__}.dist-info"}
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "eventdb").rglob("*.py")}
    expected |= {
        "eventdb_shell/" + path.relative_to(ROOT / "shell").as_posix() for path in (ROOT / "shell").rglob("*.py")
    }
    expected |= {
        "eventdb/py.typed",
        "eventdb_shell/py.typed",
        "eventdb_shell/data/weather.csv.gz",
        "eventdb_shell/data/NOTE.md",
    }
    assert not expected - set(names)
    assert wheel.getinfo("eventdb_shell/data/weather.csv.gz").file_size < 1_000_000
    assert not [name for name in names if "__pycache__" in name]


def test_the_wheel_says_how_to_run_and_under_which_licence(wheel: zipfile.ZipFile) -> None:
    info = f"eventdb-{eventdb.__version__}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata
    entry_points = wheel.read(f"{info}/entry_points.txt").decode()
    assert "eventdb = eventdb_shell.cli:main" in entry_points
    assert "[sqlalchemy.dialects]\neventdb = eventdb.sqlalchemy:EventDBDialect" in entry_points
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def readme_blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_readme_has_the_two_commands() -> None:
    lines = [line for block in readme_blocks("sh") for line in block.splitlines() if line.startswith("pip install")]
    assert lines == README_COMMANDS


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    for block in readme_blocks("python"):
        found = subprocess.run(
            [sys.executable, "-c", block], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120
        )
        assert found.returncode == 0, found.stderr


def test_the_sql_of_the_readme_runs(tmp_path: Path) -> None:
    from eventdb_shell.statements import all_statements

    with eventdb.open(tmp_path / "readme.eventdb") as db:
        for block in readme_blocks("sql"):
            for statement in all_statements(block):
                if not statement.text.startswith("SUBSCRIBE"):
                    db.sql(statement.text)


def test_the_files_the_readme_names_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:eventdb|shell|tests|bench|\.ci)/[\w./]+)`", text))
    assert named
    assert not sorted(name for name in named if not (ROOT / name).exists())


def test_the_dev_extra_has_what_the_checks_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    dev = " ".join(project["optional-dependencies"]["dev"])
    assert all(
        tool in dev for tool in ("pytest", "hypothesis", "pytest-timeout", "ruff", "mypy", "import-linter", "build")
    )
