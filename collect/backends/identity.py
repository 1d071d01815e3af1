"""What a backend is, in a form that can be stored and compared."""

import hashlib
import inspect
from pathlib import Path
from typing import Any

SAMPLE_BYTES = 1 << 16
NUM_SAMPLES = 64
CONTENT = (".json", ".safetensors", ".model", ".parquet", ".npy")
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


def identify(config: Any) -> Any:
    """Describe backends by their configuration as JSON: classes and arguments, and of directories the content.

    A model that was trained again in the same directory is another one, and so is a function that was rewritten; one
    that runs on another device is not.

    Args:
        config: of one or more backends, nested as in YAML.
    """
    if isinstance(config, dict) and "class_path" in config:
        return {"class": config["class_path"], **identify(config.get("init_args", {}))}
    if isinstance(config, dict):
        return {key: identify(value) for key, value in config.items() if key not in SHAPELESS}
    if isinstance(config, (list, tuple)):
        return [identify(value) for value in config]
    if isinstance(config, (str, Path)):
        folder = Path(config)
        return f"{folder.name} {sampled_digest(folder)}" if len(str(config)) < 1024 and folder.is_dir() else str(config)
    if inspect.isroutine(config):  # jsonargparse has imported what a config names by its path
        source = inspect.getsource(config) if inspect.isfunction(config) else ""
        return f"{config.__module__}.{config.__qualname__} {hashlib.sha256(source.encode()).hexdigest()}"
    return config


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
