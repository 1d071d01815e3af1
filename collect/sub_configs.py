"""Configs that name other configs, so that what a model is stands in one file.

Wherever a class is expected, jsonargparse loads it from a YAML file named in its place (``generator: generator.yaml``),
at any depth, relative to the file that names it. Two things it lacks are added here: a file as the ``class_path`` of a
mapping, whose ``init_args`` change single arguments of what the file says, and errors that name the file.
"""

import re
from pathlib import Path
from typing import Any, TypeGuard

from jsonargparse import get_loader
from yaml import YAMLError

from data_modules.config_tree import load_tree
from data_modules.text import read_text

SUFFIX = ".yaml"

_plain = get_loader("yaml")


class SubConfigs:
    """Loads YAML and remembers which files it names."""

    def __init__(self) -> None:
        self.named: dict[Path, str] = {}  # file to the key that names it

    def load(self, text: str) -> Any:
        """Load a config, in its folder: jsonargparse changes to it before.

        Raises:
            FileNotFoundError: if a ``class_path`` is a file that does not exist.
            ValueError: if it is one that holds no class, or that names itself.
        """
        return self._resolved(load_tree(_plain, text), Path.cwd(), "", ())

    def explain(self, message: str) -> list[str]:
        """Say of an error of jsonargparse which named files it is about: missing ones, or else those of its classes."""
        quoted = set(re.findall(r"'([\w./~-]+)'", message))
        missing = [path for path in self.named if not path.is_file() and quoted & {path.name, str(path)}]
        if missing:
            return [f"{self.named[path]} names {path}, which does not exist" for path in missing]
        unknown = sorted(name for name in quoted if name.endswith(SUFFIX) and not Path(name).is_file())
        if unknown:
            return [f"{name} does not exist" for name in unknown]
        there = [path for path in self.named if path.is_file()]
        return [f"{self.named[path]} is {path}" for path in there if quoted & classes(path)]

    def _resolved(self, node: Any, folder: Path, key: str, chain: tuple[Path, ...]) -> Any:
        """Put in place what files named as ``class_path`` say, and name all others by their full path."""
        if isinstance(node, list):
            return [self._resolved(child, folder, f"{key}[{index}]", chain) for index, child in enumerate(node)]
        if not isinstance(node, dict):
            return node
        class_path, keys = node.get("class_path"), {name: f"{key}.{name}" if key else str(name) for name in node}
        named = {name: self._named(child, folder, keys[name]) for name, child in node.items() if name != "class_path"}
        given = {name: self._resolved(child, folder, keys[name], chain) for name, child in named.items()}
        if not is_file(class_path):
            return given if class_path is None else {"class_path": class_path, **given}
        path = (folder / class_path).resolve()
        said = self._content(path, key, chain)
        if not isinstance(said, dict) or "class_path" not in said:
            raise ValueError(f"{path}, which {key} names as its class_path, says no class_path itself.")
        return self._changed(said, given, key, (*chain, path))

    def _named(self, child: Any, folder: Path, key: str) -> Any:
        """Name files by their full paths, since another file may take them over; what is no file stays as it is."""
        if isinstance(child, list):
            return [self._named(item, folder, f"{key}[{index}]") for index, item in enumerate(child)]
        if not is_file(child):
            return child
        path = (folder / child).resolve()
        self.named.setdefault(path, key)
        return str(path) if path.is_file() else child

    def _content(self, path: Path, key: str, chain: tuple[Path, ...]) -> Any:
        self.named.setdefault(path, key)
        if not path.is_file():
            raise FileNotFoundError(f"{key} names {path}, which does not exist; it is looked for beside the config.")
        if path in chain:
            raise ValueError(f"{path} names itself, in {key}.")
        try:
            node = load_tree(_plain, read_text(path, "a config"))
        except YAMLError as error:
            raise ValueError(f"{path}, which {key} names, is no YAML: {' '.join(str(error).split())}") from error
        return self._resolved(node, path.parent, key, (*chain, path))

    def _changed(self, said: Any, given: Any, key: str, chain: tuple[Path, ...]) -> Any:
        """Lay what is given over what a file says: mappings key by key, unless they name a class; all else replaces."""
        if not isinstance(given, dict) or "class_path" in given:
            return given
        if is_file(said):
            said = self._content(Path(said), key, chain)
        if not isinstance(said, dict):
            return given
        changed = {name: self._changed(said.get(name), value, f"{key}.{name}", chain) for name, value in given.items()}
        return {**said, **changed}


def is_file(value: Any) -> TypeGuard[str]:
    """Whether a value reads as the name of a config."""
    return isinstance(value, str) and value.endswith(SUFFIX)


def classes(path: Path) -> set[str]:
    """The classes that a file names itself."""
    return set(re.findall(r"class_path: *([\w.]+)", path.read_text()))
