"""What a prompt asks for, item by item: words, names, colours, numbers, relations, negations, quotes."""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from collect.intent.lexicon import (
    CAMERA_MOVES,
    COLOURS,
    LOOSE_NUMBERS,
    NEGATIONS,
    NUMBERS,
    RELATIONS,
    THINGS,
)
from collect.intent.words import (
    STRAIGHT,
    Token,
    forms,
    tokenise,
)

QUOTED = re.compile(r"\"([^\"]+)\"|(?<!\w)'([^']{2,}?)'(?!\w)")


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


def words_after(tokens: Sequence[Token], index: int) -> tuple[str, ...]:
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
    return not words_after(tokens, index) and (before in ("a", "an", "the", "and", "of", "with") or before in NUMBERS)


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
            about = words_after(tokens, index)
            if about:
                items.append(Item("negation", f"{word} {' '.join(about)}", about))
                used.update(range(index, index + 1 + len(about)))
        elif index in names:
            items.append(Item("name", word, (word,)))
        elif word in COLOURS and not _is_thing(tokens, index):
            items.append(Item("colour", word, (word,), words_after(tokens, index)))
        elif word.isdigit() or (word in NUMBERS and (word not in LOOSE_NUMBERS or words_after(tokens, index))):
            if words_after(tokens, index):
                items.append(Item("number", word, (NUMBERS.get(word, word),), words_after(tokens, index)))
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
    rivals = {word for other in others for word in other.about if forms(word).isdisjoint(forms_of(item.about))}
    return replace(item, beside=tuple(sorted(rivals)))


def _identity(item: Item) -> tuple[object, ...]:
    """What is asked for twice: the same word, or the same colour of the same thing."""
    return (item.kind, item.text, *(item.about if item.kind in ("colour", "number", "relation") else ()))


def forms_of(words: Iterable[str]) -> frozenset[str]:
    """Every form of every word."""
    return frozenset(form for word in words for form in forms(word))
