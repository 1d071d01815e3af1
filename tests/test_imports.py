"""Packages import downwards only, and so do the rooms of collect; stages meet on disk."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES: dict[str, set[str]] = {
    "models": set(),
    "data_modules": set(),
    "collect": {"data_modules"},
    "train": {"models", "data_modules"},
}
# The rooms of collect, from the ground up: a room imports only what stands in an earlier row, or its own files.
FLOORS = [
    ("protocols", "prompts", "tracking", "console", "sub_configs", "quiet"),
    ("backends",),
    ("intent", "graph", "search"),
    ("verifiers", "rewriters"),
    ("examples",),
    ("evaluation", "suites"),
    ("__main__",),
]


def imported(path: Path) -> set[str]:
    """Every module that a file imports, whole."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # What is imported may be a module itself: `from collect import tracking`.
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def wrong_imports(collect: Path) -> list[str]:
    """Every import of a room by one that does not stand above it."""
    allowed: set[str] = set()
    wrong = []
    for floor in FLOORS:
        for room in floor:
            paths = [collect / f"{room}.py"] if (collect / f"{room}.py").is_file() else (collect / room).rglob("*.py")
            for path in paths:
                rooms = {name.split(".")[1] for name in imported(path) if name.startswith("collect.")}
                wrong += [f"{path.relative_to(collect)} imports {other}" for other in rooms - allowed - {room}]
        allowed |= set(floor)
    return wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    paths = list((ROOT / package).rglob("*.py"))
    assert len(paths) > 2
    for path in paths:
        wrong = {name.split(".")[0] for name in imported(path)} & (PACKAGES.keys() - PACKAGES[package] - {package})
        assert not wrong, f"{path} imports {wrong}"


def test_every_room_of_collect_is_on_a_floor() -> None:
    there = {
        path.stem for path in (ROOT / "collect").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert there - {"__init__"} == {room for floor in FLOORS for room in floor}


def test_rooms_import_downwards_only() -> None:
    assert wrong_imports(ROOT / "collect") == []


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("search", "from collect.rewriters import LMRewriter"),
        ("backends", "import collect.search.store"),
        ("graph", "from collect.intent import IntentGate"),
        ("examples", "def late():\n    from collect import evaluation"),
    ],
)
def test_an_import_that_runs_back_up_is_found(room: str, line: str, tmp_path: Path) -> None:
    (tmp_path / room).mkdir()
    (tmp_path / room / "wrong.py").write_text(line)
    for floor in FLOORS:
        for other in floor:
            (tmp_path / other).mkdir(exist_ok=True)
    assert len(wrong_imports(tmp_path)) == 1
