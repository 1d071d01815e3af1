"""What is wrong with a toy-world video, in words: what a verifier says and what the language model learns to read."""

from data_modules.toyworld.grammar import ATTRIBUTES, WORDINGS
from data_modules.toyworld.read import Reading

ALL_RIGHT = "Everything that was asked for is right."


def critique(asked: dict[str, str], reading: Reading) -> str:
    """Name every asked attribute that the video gets wrong, then those it gets right.

    Values are named by their commonest wording: "The colour should be blue but looks green. The motion should be
    falling down but cannot be seen. The shape and size are right."

    Args:
        asked: the value asked for, per attribute.
        reading: what the video shows.

    Raises:
        ValueError: if nothing is asked for, or something that is not of this world.
    """
    _check(asked)
    right, sentences = [], []
    for attribute in (name for name in ATTRIBUTES if name in asked):
        value = asked[attribute]
        seen = reading.values[attribute]
        if seen == value:
            right.append(attribute)
            continue
        looks = "cannot be seen" if seen is None else f"looks {WORDINGS[attribute][seen][0]}"
        sentences.append(f"The {attribute} should be {WORDINGS[attribute][value][0]} but {looks}.")
    if not sentences:
        return ALL_RIGHT
    if right:
        names = " and ".join(filter(None, (", ".join(right[:-1]), right[-1])))
        sentences.append(f"The {names} {'is' if len(right) == 1 else 'are'} right.")
    return " ".join(sentences)


def _check(asked: dict[str, str]) -> None:
    if not asked:
        raise ValueError("nothing was asked for, so nothing can be criticised; ask for at least one attribute")
    for attribute, value in asked.items():
        if value not in WORDINGS.get(attribute, {}):
            raise ValueError(f"the toy world has no {attribute} {value!r}; its attributes are {', '.join(ATTRIBUTES)}")
