"""Whether a caption has the words of what a language model says is in it."""

import re
from collections.abc import Iterable
from functools import cache

import simplemma

WORD = re.compile(r"[^\W_]+")
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")  # scripts of no blanks
LEAST, MOST = 3, 3  # letters that two words of one stem share, and that one has more than the other
SMALL = re.compile(
    "an?|the|of|in|on|at|by|with|without|to|from|and|or|for|into|onto|over|under|as|is|are|be|being|its|his|her|their|"
    "this|that|through|while|near"
)


def grounded(phrases: Iterable[str], caption: str) -> tuple[str, ...]:
    """Keep the phrases whose words the caption has, in any form: waters and watering, fog and foggy."""
    text = caption.casefold()
    forms = frozenset(map(_lemma, WORD.findall(text)))
    return tuple(phrase for phrase in phrases if all(_is_in(word, forms, text) for word in WORD.findall(phrase)))


def _is_in(word: str, forms: frozenset[str], text: str) -> bool:
    if SMALL.fullmatch(word):
        return True
    if UNSPACED.search(word):
        return word in text
    lemma = _lemma(word)
    return lemma in forms or any(_share_a_stem(lemma, form) for form in forms)


def _share_a_stem(first: str, second: str) -> bool:
    shorter, longer = sorted((first.removesuffix("e"), second.removesuffix("e")), key=len)
    return len(shorter) >= LEAST and longer.startswith(shorter) and len(longer) - len(shorter) <= MOST


@cache
def _lemma(word: str) -> str:
    return str(simplemma.lemmatize(word, lang="en")).casefold()
