"""Configs are trees of a size that people write: anchors can make a YAML file a cycle, or a billion nodes."""

from collections.abc import Callable
from typing import Any

MAX_DEPTH = 60
MAX_NODES = 100_000


def load_tree(load: Callable[[str], Any], text: str) -> Any:
    """Load a config, and see that it is a tree.

    Args:
        load: reads YAML.
        text: the YAML.

    Raises:
        ValueError: if it is none; see :func:`require_tree`.
    """
    try:
        return require_tree(load(text))
    except RecursionError:
        raise ValueError(f"a config is nested more than {MAX_DEPTH} levels deep; write it flatter.") from None


def require_tree(config: Any) -> Any:
    """Hand a config on that is one.

    Raises:
        ValueError: if it is nested too deeply, as one that contains itself is, or has too many parts.
    """
    nodes = [(config, 0)]
    count = 0
    while nodes:
        node, depth = nodes.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"a config is nested more than {MAX_DEPTH} levels deep, or contains itself by an anchor.")
        if count > MAX_NODES:
            raise ValueError(f"a config has more than {MAX_NODES} parts; remove anchors of anchors from it.")
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        nodes += [(child, depth + 1) for child in children]
    return config
