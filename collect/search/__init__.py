"""Stage 2: search each prompt's best wording by rendering and judging."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Hand on ``RayWorkers``, imported when a config names it: it needs the extra ``ray``."""
    if name != "RayWorkers":
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    from collect.search.workers import RayWorkers

    return RayWorkers
