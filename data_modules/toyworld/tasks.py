"""What the toy language model is taught: the project's templates, answered over the toy world's grammar.

A pretrained language model knows every wording of a thing equally well and has a style of its own; so does this
one after training. It never learns to write the generator's caption form by itself, only to read it and to edit it:
writing it is what stage 1 has to teach. ``python -m data_modules.toyworld.tasks --output_dir outputs/toy_lm/data``
writes the examples.
"""

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jsonargparse import auto_cli

from data_modules import templates
from data_modules.records import Messages, Prompt, Rewrite, content_id, unique, write_records
from data_modules.toyworld.critique import critique
from data_modules.toyworld.grammar import (
    ATTRIBUTES,
    EVEN_SHARES,
    VERB_FORMS,
    WORDINGS,
    Split,
    Wording,
    World,
    choose_wording,
    generic_prompt,
    mentions,
    worlds,
    write_caption,
    write_user_prompt,
)
from data_modules.toyworld.read import Reading


@dataclass(frozen=True)
class Task:
    """One template with its texts, and the answer the language model is to give."""

    messages: Messages
    answer: str


def some_of(wording: Wording, rng: random.Random, least: int = 2, most: int = 4) -> Wording:
    """Keep ``least`` to ``most`` attributes, in the world's order."""
    kept = set(rng.sample(sorted(wording), rng.randint(least, min(most, len(wording)))))
    return {name: wording[name] for name in ATTRIBUTES if name in kept}


def random_wording(world: World, rng: random.Random) -> Wording:
    """Say each attribute in any of its wordings."""
    return choose_wording(world, rng, EVEN_SHARES)


def extract(world: World, rng: random.Random) -> Task:
    """Caption to its parts as JSON."""
    w = random_wording(world, rng)
    parts = {
        "scene": [w["scene"].split(" ", 2)[2]],
        "subject": [f"{w['size']} {w['colour']} {w['shape']}"],
        "action": [w["motion"]],
        "atmosphere": [w["light"]],
    }
    return Task(templates.extract(write_caption(w)), json.dumps(parts))


def deform(world: World, rng: random.Random, style: templates.DeformStyle) -> Task:
    """Caption to the same content in another form; its wordings stay."""
    w = random_wording(world, rng)
    if style == "short":
        answer = write_user_prompt(some_of(w, rng), rng)
    elif style == "generic":
        answer = generic_prompt(w)
    elif style == "reordered":
        answer = f"In {w['light']}, {w['scene']}, {w['motion']}: a {w['size']} {w['colour']} {w['shape']}."
    elif style == "long":
        answer = (
            f"There is a {w['shape']} in this scene. This {w['shape']} is {w['colour']}, and it is also {w['size']}. "
            f"What is the {w['shape']} doing there? It is {w['motion']}. And where is it? The {w['shape']} is "
            f"{w['scene']}. It is all in {w['light']}."
        )
    else:
        answer = ", ".join(w[name] for name in ATTRIBUTES)
    return Task(templates.deform(write_caption(w), style), answer)


def merge(world: World, rng: random.Random) -> Task:
    """Prompt and a detail, which may disagree with it, to one prompt in the model's own style."""
    asked = some_of(random_wording(world, rng), rng, 1, 5)
    prompt = generic_prompt(asked) if rng.random() < 0.5 else write_user_prompt(asked, rng)
    other = random_wording(_any_world(rng), rng)
    detail = rng.choice(("scene", "motion", "light", "subject"))
    names = ("size", "colour", "shape") if detail == "subject" else (detail,)
    offered = {name: other[name] for name in names}
    phrase = " ".join(offered.values())
    if detail == "scene" and rng.random() < 0.5:
        phrase = phrase.split(" ", 2)[2]
    return Task(templates.merge(prompt, phrase), generic_prompt(offered | asked))


def expand(world: World, rng: random.Random, template: Callable[[str], Messages]) -> Task:
    """Short prompt to a full one in the model's own style; the user's words stay, what is open is made up."""
    asked = some_of(random_wording(world, rng), rng, 1, 5)
    prompt = generic_prompt(asked) if rng.random() < 0.1 else write_user_prompt(asked, rng)
    return Task(template(prompt), generic_prompt(random_wording(_any_world(rng), rng) | asked))


def edit(world: World, rng: random.Random) -> Task:
    """Current prompt, in any form, and a critique to the same prompt with the criticised things said otherwise.

    What is criticised is said in another wording of the value that was asked for, one that was not tried before if
    there is one; what the prompt lacks is added. Everything else stays word for word, and so does a prompt that
    nothing is wrong with.
    """
    wanted_wording = some_of(random_wording(world, rng), rng, 1, 4)
    raw = write_user_prompt(wanted_wording, rng)
    wanted = {name: value for name, value in asdict(world).items() if name in wanted_wording}
    current = _attempt(world, wanted, rng)
    faults = _faults(wanted, rng)
    why = critique(wanted, _reading(wanted, faults, rng))
    history = [_earlier(world, wanted, current, rng) for _ in range(rng.choice((0, 0, 1)))]
    if rng.random() < 0.1:
        history = [(raw, *_judged(wanted, rng)), *history[1:]]
    targets = {name: wanted[name] for name in faults}
    changes = {
        name: rng.choice(other_wordings(name, value, current, [text for text, _, _ in history]))
        for name, value in targets.items()
    }
    return Task(templates.critique(Prompt(content_id(raw), raw), current, why, history), revise(current, changes))


def other_wordings(attribute: str, value: str, current: str, tried: Sequence[str]) -> list[str]:
    """List the wordings of a value that a text does not use, leaving out those tried before unless all were."""
    used = {wording for _, wording in mentions(current).get(attribute, [])}
    others = [wording for wording in WORDINGS[attribute][value] if wording not in used]
    before = {wording for text in tried for _, wording in mentions(text).get(attribute, [])}
    return [wording for wording in others if wording not in before] or others


def revise(text: str, changes: Wording) -> str:
    """Say the given attributes in the given wordings and leave the rest word for word; what is missing is added."""
    missing = [wording for attribute, wording in changes.items() if attribute not in mentions(text)]
    for attribute, wording in changes.items():
        text = reword(text, attribute, wording)
    if not missing:
        return text
    ending = ", in a video."
    return ", ".join([text.removesuffix(ending), *missing]) + (ending if text.endswith(ending) else "")


def reword(text: str, attribute: str, wording: str) -> str:
    """Say an attribute in another wording wherever a text mentions it, in whatever form the text has."""
    swaps: dict[str, str] = {}
    for _, old in mentions(text).get(attribute, []):
        for before, after in zip(_forms(attribute, old), _forms(attribute, wording), strict=True):
            swaps.setdefault(before, after)
    if not swaps:
        return text
    longest_first = "|".join(re.escape(form) for form in sorted(swaps, key=len, reverse=True))
    return re.sub(rf"\b({longest_first})\b", lambda match: swaps[match[0]], text)


def _forms(attribute: str, wording: str) -> list[str]:
    """List the ways a wording appears in captions and prompts, in one order for all wordings of the attribute."""
    if attribute == "motion":
        gerund, _, rest = wording.partition(" ")
        verb = VERB_FORMS[gerund]
        return [wording, f"{verb} {rest}".strip(), gerund, verb]
    if attribute == "scene":
        preposition, article, place = wording.split(" ", 2)
        return [f"{preposition} {article} {place}", place, place.split()[-1]]
    if attribute == "light":
        bare = wording.split()[-1]
        return [wording, f"at {bare}" if "night" in bare else f"in {bare}", bare]
    return [wording]


def _any_world(rng: random.Random) -> World:
    return World(*(rng.choice(sorted(values)) for values in WORDINGS.values()))


def _faults(wanted: dict[str, str], rng: random.Random) -> list[str]:
    """Choose which of the things asked for a video gets wrong: none in one case of ten."""
    return [] if rng.random() < 0.1 else rng.sample(sorted(wanted), rng.randint(1, len(wanted)))


def _reading(wanted: dict[str, str], faults: Sequence[str], rng: random.Random) -> Reading:
    values: dict[str, str | None] = dict(wanted)
    for name in faults:
        values[name] = rng.choice([None, *(value for value in WORDINGS[name] if value != wanted[name])])
    return Reading(values, 1.0)


def _attempt(world: World, wanted: dict[str, str], rng: random.Random) -> str:
    """Write a prompt in any form that asks for what was wanted; one in ten says something wrong or leaves it out."""
    wording = random_wording(world, rng)
    form = rng.choices(("caption", "generic", "user"), (0.6, 0.2, 0.2))[0]
    slip = rng.choice(sorted(wanted)) if rng.random() < 0.1 else None
    if slip is not None and (form == "caption" or len(wanted) == 1):
        wording[slip] = random_wording(_any_world(rng), rng)[slip]
        slip = None
    if form == "caption":
        return write_caption(wording)
    extra = rng.sample(ATTRIBUTES, rng.randint(0, 4 if form == "generic" else 1))
    said = {name: wording[name] for name in ATTRIBUTES if name != slip and (name in wanted or name in extra)}
    return generic_prompt(said) if form == "generic" else write_user_prompt(said, rng)


def _earlier(world: World, wanted: dict[str, str], current: str, rng: random.Random) -> tuple[str, float, str]:
    """Make up an earlier attempt in the form of the current one, with its score and critique."""
    changes = {
        name: text
        for name, text in random_wording(world, rng).items()
        if name in mentions(current) and rng.random() < 0.5
    }
    return revise(current, changes), *_judged(wanted, rng)


def _judged(wanted: dict[str, str], rng: random.Random) -> tuple[float, str]:
    """Make up a score and a critique."""
    faults = _faults(wanted, rng)
    return (len(wanted) - len(faults)) / len(wanted), critique(wanted, _reading(wanted, faults, rng))


TASKS = {
    "extract": extract,
    "deform_short": lambda world, rng: deform(world, rng, "short"),
    "deform_generic": lambda world, rng: deform(world, rng, "generic"),
    "deform_reordered": lambda world, rng: deform(world, rng, "reordered"),
    "deform_long": lambda world, rng: deform(world, rng, "long"),
    "deform_tags": lambda world, rng: deform(world, rng, "tags"),
    "merge": merge,
    "direct": lambda world, rng: expand(world, rng, templates.direct),
    # Without training on captions, a model asked for caption form answers in its own.
    "refactor": lambda world, rng: expand(world, rng, templates.refactor),
    "edit": edit,
}
# Editing has the longest texts and the most cases, and every later stage leans on it.
SHARES = {
    "extract": 1,
    "deform_short": 1,
    "deform_generic": 1,
    "deform_reordered": 0.5,
    "deform_long": 0.5,
    "deform_tags": 1,
    "merge": 1.5,
    "direct": 1.5,
    "refactor": 0.5,
    "edit": 4,
}


FOCUS = 4  # how many times as often a task in focus is drawn


def examples(split: Split, count: int, rng: random.Random, focus: Sequence[str] = ()) -> Iterator[Rewrite]:
    """Draw training examples over all tasks from the worlds of one split, more of those in focus."""
    choices = worlds(split)
    shares = [SHARES[name] * (FOCUS if name in focus else 1) for name in TASKS]
    for name in rng.choices(list(TASKS), shares, k=count):
        task = TASKS[name](rng.choice(choices), rng)
        yield Rewrite(
            content_id(task.messages[-1]["content"], task.answer),
            task.messages,
            [{"role": "assistant", "content": task.answer}],
        )


def write(
    output_dir: Path,
    num_train: int = 24000,
    num_val: int = 400,
    num_test: int = 400,
    focus: list[str] | None = None,
    seed: int = 0,
) -> None:
    """Write the toy language model's examples to ``{train,val,test}.jsonl``; no example comes twice.

    Args:
        output_dir: directory to create.
        num_train: examples over the worlds of the training split, before those that come twice are dropped.
        num_val: examples over the worlds of the validation split.
        num_test: examples over the worlds of the test split.
        focus: tasks to draw four times as often.
        seed: the same seed gives the same files.

    Raises:
        ValueError: if a task in focus is none.
    """
    unknown = set(focus or ()) - TASKS.keys()
    if unknown:
        raise ValueError(f"there is no task {', '.join(sorted(unknown))}; the tasks are {', '.join(TASKS)}.")
    rng = random.Random(seed)
    counts: dict[Split, int] = {"train": num_train, "val": num_val, "test": num_test}
    for split, count in counts.items():
        write_records(output_dir / f"{split}.jsonl", unique(list(examples(split, count, rng, focus or ()))))


if __name__ == "__main__":
    auto_cli(write, as_positional=False)
