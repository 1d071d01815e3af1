"""Whether a text keeps an item of a prompt, by its words alone."""

import re
from collections.abc import Iterable

from collect.intent.items import Item
from collect.intent.lexicon import (
    ABSENCES,
    COLOURS,
    NUMBERS,
    PLACING,
    PREPOSITIONS,
    RELATIONS,
)
from collect.intent.text import Text
from collect.intent.words import (
    STRAIGHT,
    excluded_by,
    opposed,
    stand_ins,
)


def _with_stand_ins(words: Iterable[str]) -> set[str]:
    return {one for word in words for one in (word, *stand_ins(word))}


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


def keeps(item: Item, text: Text, raw: Text) -> bool | None:
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
