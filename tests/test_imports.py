"""Packages import downwards only; stages meet on disk."""

import ast
from pathlib import Path

import pytest

ALLOWED: dict[str, set[str]] = {
    "models": set(),
    "data_modules": set(),
    "collect": {"data_modules"},
    "train": {"models", "data_modules"},
}
ROOT = Path(__file__).parents[1]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package: str) -> None:
    paths = list((ROOT / package).rglob("*.py"))
    assert len(paths) > 2
    for path in paths:
        wrong = imported(path) & (ALLOWED.keys() - ALLOWED[package] - {package})
        assert not wrong, f"{path} imports {wrong}"
