"""Whether the files of a model are what their names say, checked before anything is loaded."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

_POINTER = b"version https://git-lfs.github.com/spec/"


def require_whole_files(pretrained: str) -> None:
    """Refuse a model's folder in which a file was not downloaded or copied whole.

    Args:
        pretrained: a folder; an id of the Hub, whose files its own library checks, passes.

    Raises:
        ValueError: naming the first such file and the remedy.
    """
    folder = Path(pretrained)
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            begin = file.read(len(_POINTER))
        if begin == _POINTER:
            raise ValueError(
                f"{path} is a pointer of git-lfs in place of the file; `git lfs pull` in {folder} gets it."
            )
        if path.suffix == ".safetensors":
            require_whole_weights(path)
        elif path.suffix == ".json" and not begin:
            raise ValueError(f"{path} is empty; copy or download it again.")


def require_whole_weights(path: Path) -> None:
    """Refuse a cut or empty file of weights.

    Raises:
        ValueError: naming the file and the remedy.
    """
    try:
        with safe_open(path, framework="pt"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); copy or download it again.") from error
