"""Phrases to unit vectors, kept on the way so that a killed build resumes. N phrases, D dimensions."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from collect.backends.encoders import encoder_name, load_encoder
from data_modules.progress import Progress

CHUNK = 2048  # texts encoded at a time


def encode(phrases: Sequence[str], encoder: str | None, scratch: Path | None = None) -> NDArray[np.float16]:
    """Embed phrases as unit vectors, ``(N, D)`` in half precision.

    Args:
        phrases: texts, each once.
        encoder: Sentence Transformers id or directory.
        scratch: folder that keeps what is embedded; a call with the same phrases resumes from there.
    """
    model = load_encoder(encoder)
    dimension = model.get_embedding_dimension() or 0
    if scratch is None:
        chunks = [np.zeros((0, dimension), np.float16), *_chunks(phrases, encoder, 0)]
        return np.concatenate(chunks)
    scratch.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256("\n".join([encoder_name(encoder), *phrases]).encode()).hexdigest()[:16]
    path = scratch / f"embeddings-{digest}.f16"
    with path.open("ab") as file:
        done = file.tell() // (2 * dimension) // CHUNK * CHUNK  # a chunk that was cut short is made again
        file.truncate(2 * dimension * done)
        for chunk in _chunks(phrases, encoder, done):
            file.write(chunk.tobytes())
            file.flush()
    return np.fromfile(path, np.float16).reshape(len(phrases), dimension)


def _chunks(phrases: Sequence[str], encoder: str | None, start: int) -> Iterator[NDArray[np.float16]]:
    model = load_encoder(encoder)
    with Progress(desc="embedding phrases", total=len(phrases), initial=start, delay=10) as progress:
        for at in range(start, len(phrases), CHUNK):
            chunk = phrases[at : at + CHUNK]
            vectors = model.encode(chunk, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
            yield np.asarray(vectors, np.float16)
            progress.update(len(chunk))
