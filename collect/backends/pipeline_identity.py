"""What of a pipeline decides how its videos look, as a digest."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers

from collect.backends.identity import add_sample
from collect.backends.pipeline_loading import INDEXES


def pipeline_fingerprint(folder: Path, others: Sequence[str], settings: Any) -> str:
    """Identify a pipeline: the files of the parts that its index names, diffusers' version, and settings.

    Args:
        folder: the pipeline's.
        others: ids, folders and files of parts that come from elsewhere.
        settings: whatever else shows in a video, as JSON.
    """
    digest = hashlib.sha256(f"{diffusers.__version__} {json.dumps(settings, sort_keys=True, default=str)}".encode())
    index = next(folder / name for name in INDEXES if (folder / name).is_file())
    parts = [folder / name for name, value in json.loads(index.read_text()).items() if isinstance(value, list)]
    for path in (index, *parts, *map(Path, others)):
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        digest.update(f"{path.name} {len(files)} ".encode())
        for file in files:
            digest.update(f"{file.relative_to(path)} ".encode())
            add_sample(digest, file)
    return digest.hexdigest()[:16]
