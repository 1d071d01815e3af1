"""English words: how a text splits into them, which forms belong together, and what may stand for what."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

import simplemma

from collect.intent.lexicon import KINDS, NEGATIONS, OPPOSITES, STOP_WORDS, SYNONYMS

STRAIGHT = str.maketrans("\u2018\u2019\u201c\u201d\u00ab\u00bb", '\'\'""""')  # curly and angled quotation marks
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
ENDINGS = {  # and how many letters must be left
    4: "ing ings ed es s ly y e en ies ied ier ily ism ist ists isms istic istically ness iness less ful ish ous ity",
    5: "able ible ation ically ingly fully",
}
MIN_LEFT = {ending: left for left, endings in ENDINGS.items() for ending in endings.split()}
_ENDINGS_LONGEST_FIRST = sorted(MIN_LEFT, key=len, reverse=True)


@lru_cache(maxsize=100_000)
def lemma(word: str) -> str:
    """Reduce a lower-case English word to its dictionary form."""
    return simplemma.lemmatize(word, lang="en").lower()


@lru_cache(maxsize=100_000)
def root(word: str) -> str:
    """Cut endings off, so that words of one family meet: surreal and surrealism, snow and snowy."""
    cut = True
    while cut:
        cut = False
        for ending in _ENDINGS_LONGEST_FIRST:
            if word.endswith(ending) and len(word) - len(ending) >= MIN_LEFT[ending]:
                word, cut = word[: -len(ending)], True
                break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word


@lru_cache(maxsize=100_000)
def forms(word: str) -> frozenset[str]:
    """Everything by which a word is recognised."""
    base = lemma(word)
    return frozenset((word, base, f"{root(word)}-", f"{root(base)}-"))


@lru_cache(maxsize=100_000)
def person_and_thing(word: str, other: str) -> bool:
    """Whether one of two words names who or what has to do with the other: a guitarist is no guitar.

    Verbs are not meant: who is dancing is a dancer. Nor are comparatives, which share their lemma.
    """
    if word.endswith("ing") or lemma(word) == lemma(other):
        return False
    return any(
        thing in [agent.removesuffix(ending) + rest for rest in ("", "e", "o", "y", "ery")]
        for agent, thing in ((lemma(word), lemma(other)), (lemma(other), lemma(word)))
        for ending in ("er", "ist", "ian")
        if agent.endswith(ending) and len(agent) - len(ending) >= 3
    )


@dataclass(frozen=True)
class Token:
    """One word of a text, in lower case."""

    text: str
    start: int
    capital: bool
    clause: int  # words between the same two marks share a number
    sentence: int

    @property
    def content(self) -> bool:
        """Whether it carries meaning of its own."""
        return (
            self.text not in STOP_WORDS
            and lemma(self.text) not in STOP_WORDS
            and self.text not in NEGATIONS
            and (len(self.text) > 1 or self.text.isdigit())
        )


def tokenise(text: str) -> list[Token]:
    """Split a text into words; a possessive ending is no part of its word."""
    text = text.translate(STRAIGHT)
    tokens: list[Token] = []
    clause, sentence, end = 0, 0, 0
    for match in WORD.finditer(text):
        marks = text[end : match.start()]
        clause += bool(re.search(r"[.,;:!?()\n]", marks))
        sentence += bool(re.search(r"[.;!?\n]", marks))
        end = match.end()
        word = match.group().removesuffix("'s")
        parts = [word[:-3], "n't"] if word.lower().endswith("n't") else word.split("'")
        tokens.extend(Token(part.lower(), match.start(), part[0].isupper(), clause, sentence) for part in parts if part)
    return tokens


def _by_form(table: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for word, others in table.items():
        for form in forms(word):
            found[form] = found.get(form, frozenset()) | others
    return found


@cache
def _stand_ins() -> tuple[dict[str, frozenset[str]], ...]:
    return _by_form(SYNONYMS), _by_form(KINDS)


@lru_cache(maxsize=100_000)
def stand_ins(word: str) -> frozenset[str]:
    """Words that may stand for a word: its listed synonyms, and the kinds of what it names."""
    return frozenset(other for table in _stand_ins() for form in forms(word) for other in table.get(form, ()))


@cache
def _sides() -> dict[str, frozenset[tuple[int, int]]]:
    """Where each word is found in ``OPPOSITES``, as group and side."""
    found: dict[str, frozenset[tuple[int, int]]] = {}
    for number, group in enumerate(OPPOSITES):
        for side, words in enumerate(group):
            for form in {form for word in words for form in (word, lemma(word))}:
                found[form] = found.get(form, frozenset()) | {(number, side)}
    return found


def _sides_of(word: str) -> frozenset[tuple[int, int]]:
    return frozenset(side for form in forms(word) for side in _sides().get(form, ()))


@lru_cache(maxsize=100_000)
def opposed(word: str, other: str) -> bool:
    """Whether two words exclude each other: in some group, they are on different sides."""
    ours, theirs = _sides_of(word), _sides_of(other)
    shared = {number for number, _ in ours} & {number for number, _ in theirs}
    return any(all(number != group for group, _ in ours & theirs) for number in shared)


@lru_cache(maxsize=100_000)
def excluded_by(word: str) -> frozenset[str]:
    """Every listed word that excludes a word."""
    ours = _sides_of(word)
    return frozenset(
        other
        for number in {group for group, _ in ours}
        for side, words in enumerate(OPPOSITES[number])
        if (number, side) not in ours
        for other in words
    )
