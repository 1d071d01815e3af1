"""Folders that an export writes as a whole: new, or in place of one that an export wrote; nothing else is deleted."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

MARK = ".export.json"  # lists what an export wrote; only a folder that holds this and nothing else is ever replaced
NUM_NAMED = 3


@contextmanager
def replaced(output_dir: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``output_dir`` that takes its name once the block has succeeded.

    Raises:
        ValueError: if ``output_dir`` holds anything that no export wrote; see :func:`require_replaceable`.
        OSError: if the disk is full. What was in ``output_dir`` before is still there.
    """
    require_replaceable(output_dir)
    target = output_dir.resolve()
    partial, previous = (target.with_name(f".{target.name}.{state}") for state in ("partial", "previous"))
    for left in (partial, previous):  # by an export that was killed
        require_replaceable(left)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    _mark(partial)  # what is killed from here on is known as an export's
    try:
        yield partial
        _mark(partial)
        if previous.exists():
            shutil.rmtree(previous)
        if target.exists():
            target.rename(previous)
        partial.rename(target)
    except SafetensorError as error:  # an OSError of the library's own
        raise OSError(f"cannot write {output_dir} ({error}); make room and export again.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(previous, ignore_errors=True)


def require_replaceable(output_dir: Path) -> None:
    """See that nothing is lost if a folder is replaced: it is missing, empty, or all an export's.

    Raises:
        ValueError: naming what no export wrote.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"{output_dir} is a file; export to a new folder.")
    if not output_dir.is_dir() or not any(output_dir.iterdir()):
        return
    try:
        written = json.loads((output_dir / MARK).read_text(encoding="utf-8"))["files"]
        # An export that was killed had not listed its files yet.
        others = [] if written is None else sorted(_files(output_dir) - {MARK, *map(str, written)})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(
            f"{output_dir} is not empty and was not written by an export (it has no {MARK} that says so); an export "
            "replaces its folder as a whole, so choose a new one, or move this one away."
        ) from None
    if others:
        named = ", ".join(others[:NUM_NAMED]) + (f" and {len(others) - NUM_NAMED} more" if others[NUM_NAMED:] else "")
        raise ValueError(
            f"{output_dir} holds what no export wrote: {named}; an export replaces its folder as a whole, so move "
            "that away, or choose a new folder."
        )


def _mark(folder: Path) -> None:
    files = sorted(_files(folder) - {MARK})
    (folder / MARK).write_text(json.dumps({"files": files or None}, indent=1) + "\n", encoding="utf-8")


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
