"""A rewrite, prepared for questions about what it says."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from collect.intent.items import Item, forms_of, words_after
from collect.intent.lexicon import (
    COLOURS,
    NEGATIONS,
    NUMBERS,
    SURROUNDINGS,
)
from collect.intent.words import (
    Token,
    forms,
    lemma,
    person_and_thing,
    tokenise,
)

MODIFIER_REACH = 6  # words before a noun among which its colour or number may be
NEGATION_REACH = 3  # words after a negation that it denies
MAX_CANDIDATES = 400  # words of one rewrite compared with a missing word


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
        words = words_after(self.tokens, index)
        if not forms_of(words).isdisjoint(forms_of(item.about)):
            return False
        surroundings = item.kind == "colour" and any(
            word in SURROUNDINGS or lemma(word) in SURROUNDINGS for word in words
        )
        return surroundings or not forms_of(words).isdisjoint(forms_of(item.beside))
