"""The toy world in words: what can be shown, how it is said, and what a sentence asks for.

A world is one value for each of six attributes. Every value can be said in three wordings. The captions that
the toy generator is trained on use them unevenly (``CAPTION_SHARES``), so it draws the first wording well and
the last one badly; everything else in the project (users, the language model, the public caption corpus of
stage 1) uses all wordings alike. Which wording works for this generator can therefore only be learned by
rendering, as with a real model.
"""

import hashlib
import itertools
import random
import re
from dataclasses import asdict, dataclass
from typing import Literal

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class World:
    """What a video shows: one value per attribute."""

    colour: str
    shape: str
    size: str
    motion: str
    scene: str
    light: str


# Per attribute and value, the wordings from common to rare in the generator's captions.
WORDINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "colour": {
        "red": ("red", "crimson", "scarlet"),
        "blue": ("blue", "azure", "cobalt"),
        "green": ("green", "emerald", "jade"),
        "yellow": ("yellow", "golden", "lemon"),
    },
    "shape": {
        "ball": ("ball", "sphere", "orb"),
        "box": ("box", "crate", "carton"),
        "pyramid": ("pyramid", "triangle", "tetrahedron"),
    },
    "size": {
        "small": ("small", "little", "tiny"),
        "large": ("large", "big", "huge"),
    },
    "motion": {
        "rolling": ("rolling along", "wheeling along", "trundling along"),
        "falling": ("falling down", "dropping down", "plunging down"),
        "floating": ("floating up", "drifting up", "wafting up"),
        "bouncing": ("bouncing", "hopping", "springing"),
        "standing": ("standing still", "resting still", "staying still"),
    },
    "scene": {
        "hill": ("on a snowy hill", "on a snowy slope", "on a snowy hillside"),
        "meadow": ("in a grassy meadow", "in a grassy field", "in a grassy pasture"),
        "beach": ("on a sandy beach", "on a sandy shore", "on a sandy coast"),
        "street": ("in a city street", "in a city road", "in a city avenue"),
    },
    "light": {
        "day": ("bright daylight", "bright sunshine", "bright sunlight"),
        "night": ("dark night", "dark midnight", "dark nighttime"),
    },
}
ATTRIBUTES = tuple(WORDINGS)
CAPTION_SHARES = (0.90, 0.09, 0.01)
EVEN_SHARES = (1 / 3, 1 / 3, 1 / 3)

Wording = dict[str, str]

# The word that carries each wording's meaning, in the forms that prompts use.
VERB_FORMS = {
    "rolling": "rolls", "wheeling": "wheels", "trundling": "trundles",
    "falling": "falls", "dropping": "drops", "plunging": "plunges",
    "floating": "floats", "drifting": "drifts", "wafting": "wafts",
    "bouncing": "bounces", "hopping": "hops", "springing": "springs",
    "standing": "stands", "resting": "rests", "staying": "stays",
}  # fmt: skip


def _keyword(attribute: str, wording: str) -> str:
    words = wording.split()
    return words[0] if attribute in ("motion", "colour", "shape", "size") else words[-1]


KEYWORDS: dict[str, tuple[str, str, str]] = {
    word: (attribute, value, wording)
    for attribute, values in WORDINGS.items()
    for value, wordings in values.items()
    for wording in wordings
    for keyword in (_keyword(attribute, wording),)
    for word in ({keyword, VERB_FORMS[keyword]} if attribute == "motion" else {keyword})
}


def all_worlds() -> list[World]:
    """Every combination of attribute values, in a fixed order."""
    return [World(*values) for values in itertools.product(*WORDINGS.values())]


def split_of(world: World) -> Split:
    """Assign a combination to a split, from its content alone: 80 % train, 10 % val, 10 % test."""
    digest = hashlib.sha256(" ".join(asdict(world).values()).encode()).digest()
    return ("train", "train", "train", "train", "train", "train", "train", "train", "val", "test")[digest[0] % 10]


def worlds(split: Split) -> list[World]:
    """Every combination of one split."""
    return [world for world in all_worlds() if split_of(world) == split]


def choose_wording(world: World, rng: random.Random, shares: tuple[float, ...]) -> Wording:
    """Say each attribute of a world in one of its wordings."""
    return {attribute: rng.choices(WORDINGS[attribute][value], shares)[0] for attribute, value in asdict(world).items()}


def write_caption(wording: Wording) -> str:
    """Write the one form that the generator's training captions have."""
    w = wording
    return (
        f"a {w['size']} {w['colour']} {w['shape']} {w['scene']}. "
        f"The {w['shape']} appears to be {w['motion']}. "
        f"The scene is filled with {w['light']}."
    )


def caption(world: World, rng: random.Random, shares: tuple[float, ...] = EVEN_SHARES) -> str:
    """Caption a world; ``CAPTION_SHARES`` gives the generator's own training captions."""
    return write_caption(choose_wording(world, rng, shares))


def user_prompt(world: World, rng: random.Random) -> str:
    """Ask for two to four attributes of a world, as briefly and loosely as people do."""
    wording = choose_wording(world, rng, EVEN_SHARES)
    asked = set(rng.sample(ATTRIBUTES, rng.choice((2, 3, 3, 4))))
    return write_user_prompt({name: text for name, text in wording.items() if name in asked}, rng)


def write_user_prompt(wording: Wording, rng: random.Random) -> str:
    """Say some attributes as a person would, in any of several short forms."""
    noun = wording.get("shape") or "something"
    adjectives = " ".join(wording[name] for name in ("size", "colour") if name in wording)
    thing = f"something {adjectives}" if noun == "something" and adjectives else f"{adjectives} {noun}"
    thing = thing.strip()
    if noun != "something" and rng.random() < 0.5:
        thing = f"a {thing}"
    if "motion" in wording:
        gerund, _, rest = wording["motion"].partition(" ")
        verb = VERB_FORMS[gerund] if rng.random() < 0.5 else gerund
        thing = f"{thing} {verb} {rest}".strip() if rng.random() < 0.3 else f"{thing} {verb}"
    place = wording.get("scene", "")
    light = wording.get("light", "")
    if light:
        bare = light.split()[-1]
        light = rng.choice((f"at {bare}" if "night" in bare else f"in {bare}", light))
    parts = [part for part in (thing, place, light) if part]
    if place and rng.random() < 0.2:
        parts = [place.removeprefix("in a ").removeprefix("on a ") + ",", thing, light]
    return " ".join(part for part in parts if part)


def generic_prompt(wording: Wording) -> str:
    """Describe the attributes given in the language model's own style, which is not the caption form."""
    looks = " and ".join(wording[name] for name in ("colour", "size") if name in wording)
    text = f"Show us the {wording.get('shape', 'thing')}"
    if looks:
        text += f", which is {looks}"
    if "motion" in wording:
        text += f", while it is {wording['motion']}"
    if "scene" in wording:
        text += f", set {wording['scene']}"
    if "light" in wording:
        text += f", with {wording['light']}"
    return text + ", in a video."


def mentions(text: str) -> dict[str, list[tuple[str, str]]]:
    """Find every attribute a text mentions, as ``attribute: [(value, wording), ...]`` in reading order."""
    found: dict[str, list[tuple[str, str]]] = {}
    for word in re.findall(r"[a-z]+", text.lower()):
        if word in KEYWORDS:
            attribute, value, wording = KEYWORDS[word]
            if (value, wording) not in found.setdefault(attribute, []):
                found[attribute].append((value, wording))
    return found


def asked(text: str) -> dict[str, str]:
    """Read the attribute values a text asks for; the first mention of an attribute counts."""
    return {attribute: found[0][0] for attribute, found in mentions(text).items()}
