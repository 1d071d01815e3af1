"""What a backend is, in a form that can be stored and compared."""

import hashlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any, get_args, get_type_hints

SAMPLE_BYTES = 1 << 16
NUM_SAMPLES = 64
CONTENT = (".json", ".safetensors", ".model", ".parquet", ".npy")
# What names a model by its id or its folder; the only texts beside those of type Path that are looked for on disk.
MODELS = ("pretrained", "encoder")
# How fast and where a backend computes, which is not what it answers.
SHAPELESS = {
    "batch_size",
    "device",
    "base_url",
    "timeout",
    "num_workers",
    "num_parallel",
    "num_concurrent",
    "max_retries",
    "offload",
    "vae_slicing",
    "fill_batches",
    "start_limit",
    "time_limit",
}


def identify(config: Any, is_path: bool = False) -> Any:
    """Describe backends by their configuration as JSON: classes and arguments, and of directories the content.

    A model that was trained again in the same directory is another one, and so is a function that was rewritten; one
    that runs on another device is not.

    Args:
        config: of one or more backends, nested as in YAML.
        is_path: whether it is the value of a parameter that takes a path; any other text is none, whatever is on disk.
    """
    if isinstance(config, dict) and "class_path" in config:
        paths = path_parameters(config["class_path"])
        arguments = config.get("init_args") or {}
        known = {key: identify(value, key in paths) for key, value in arguments.items() if key not in SHAPELESS}
        return {"class": config["class_path"], **known}
    if isinstance(config, dict):
        return {key: identify(value) for key, value in config.items() if key not in SHAPELESS}
    if isinstance(config, (list, tuple)):
        return [identify(value, is_path) for value in config]
    if is_path and isinstance(config, (str, Path)):
        folder = Path(config)
        return f"{folder.name} {sampled_digest(folder)}" if folder.is_dir() else str(config)
    if isinstance(config, Path):
        return str(config)
    if inspect.isroutine(config):  # jsonargparse has imported what a config names by its path
        source = inspect.getsource(config) if inspect.isfunction(config) else ""
        return f"{config.__module__}.{config.__qualname__} {hashlib.sha256(source.encode()).hexdigest()}"
    return config


def path_parameters(class_path: str) -> set[str]:
    """Name the parameters of a class whose type says that they take a path, and those that name a model."""
    made: Any = pkgutil.resolve_name(class_path)
    functions = [vars(parent).get("__init__") for parent in made.__mro__] if inspect.isclass(made) else [made]
    hints = [get_type_hints(function) for function in functions if inspect.isfunction(function)]
    return {*MODELS, *(name for known in hints for name, hint in known.items() if _says_path(hint))}


def _says_path(hint: Any) -> bool:
    return (isinstance(hint, type) and issubclass(hint, Path)) or any(map(_says_path, get_args(hint)))


def sampled_digest(folder: Path) -> str:
    """Hash a model by content: small files whole, large ones by 64 samples of 64 KiB, so that 28 GB take a second."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in CONTENT):
        digest.update(f"{path.relative_to(folder)} ".encode())
        add_sample(digest, path)
    return digest.hexdigest()


def add_sample(digest: "hashlib._Hash", path: Path) -> None:
    """Add the size and the content of a file, or of a large one samples, to a digest."""
    size = path.stat().st_size
    digest.update(f"{size} ".encode())
    with path.open("rb") as file:
        if size <= SAMPLE_BYTES * NUM_SAMPLES:
            digest.update(file.read())
            return
        for index in range(NUM_SAMPLES):
            file.seek(index * (size - SAMPLE_BYTES) // (NUM_SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
