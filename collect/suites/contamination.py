"""Training prompts that are a benchmark's: the same words, or nearly the same meaning. S suite prompts, T texts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentence_transformers import util

from collect.backends.encoders import load_encoder
from collect.prompts import read_prompts
from data_modules.schema import parse_json
from data_modules.text import lines_of, read_text

PROMPT_LABEL = "\nPrompt: "  # what stands before the user's prompt in every template that asks for a rewrite


@dataclass(frozen=True)
class Overlap:
    """A benchmark's prompt and the training text closest to it.

    Args:
        prompt: the benchmark's.
        training: what a model is or was trained on.
        file: where that stands.
        kind: ``exact`` where case and punctuation aside the words are the same, else ``near``.
        similarity: cosine of the sentence embeddings.
    """

    prompt: str
    training: str
    file: str
    kind: str
    similarity: float


def overlaps(
    prompts: Sequence[str], files: Sequence[Path], min_similarity: float, encoder: str | None = None
) -> list[Overlap]:
    """Find the benchmark's prompts that training texts repeat, the closest text of each.

    Args:
        prompts: ``(S,)``, the benchmark's.
        files: of training prompts, captions or training records; see :func:`read_texts`.
        min_similarity: cosine from which two texts count as near duplicates.
        encoder: see :func:`collect.backends.encoders.load_encoder`.

    Returns:
        In the order of the prompts; each prompt at most once.

    Raises:
        FileNotFoundError: if there is no such file or encoder.
        ValueError: if a file holds nothing that can be compared.
    """
    asked = list(dict.fromkeys(prompts))
    where: dict[str, str] = {}  # each text and the first file that has it
    for path in files:
        for text in read_texts(path):
            where.setdefault(text, str(path))
    texts = list(where)
    by_words = {words(text): text for text in reversed(texts)}
    model = load_encoder(encoder)
    suite_embeddings, text_embeddings = (
        model.encode(batch, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False)
        for batch in (asked, texts)
    )
    found = []
    for prompt, hits in zip(asked, util.semantic_search(suite_embeddings, text_embeddings, top_k=1), strict=True):
        closest, similarity = texts[int(hits[0]["corpus_id"])], float(hits[0]["score"])
        same = by_words.get(words(prompt))
        if same is not None:
            found.append(Overlap(prompt, same, where[same], "exact", 1.0))
        elif similarity >= min_similarity:
            found.append(Overlap(prompt, closest, where[closest], "near", similarity))
    return found


def words(text: str) -> str:
    """What of a text is compared for being the same: its words, without case and punctuation."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def read_texts(path: Path) -> list[str]:
    """Read the texts of a file: prompts of any kind that collect run takes, captions, or training records.

    Of a training record, the user's prompt inside its question counts.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds none.
    """
    if path.suffix != ".jsonl" or not path.is_file():
        return [prompt.prompt for prompt in read_prompts(path)]
    rows = [
        parse_json(line, object, f"{path}:{number}", "is the file cut short?")
        for number, line in enumerate(lines_of(read_text(path, "prompts, captions or records")), 1)
        if line.strip()
    ]
    texts = [_text(row) for row in rows if isinstance(row, dict)]
    found = [text for text in texts if text]
    if not found or len(found) < len(rows):
        raise ValueError(
            f"{path} holds {len(rows) - len(found)} of {len(rows)} lines without a prompt or caption; give prompts, "
            "captions, or records that a stage is trained on."
        )
    return found


def _text(row: dict[str, Any]) -> str:
    asked = row.get("prompt") or row.get("caption") or ""
    if isinstance(asked, list):  # a conversation, whose last turn is the user's
        asked = str(asked[-1].get("content", "")) if asked and isinstance(asked[-1], dict) else ""
        asked = asked.partition(PROMPT_LABEL)[2].partition("\n")[0] or asked
    return str(asked).strip()
