"""The committed toy language model follows every template on worlds it was not trained on."""

import itertools
import json
import random
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from collect.backends.transformers_lm import TransformersLM
from data_modules.toyworld import ATTRIBUTES, asked, generic_prompt, mentions, worlds, write_user_prompt
from data_modules.toyworld.tasks import TASKS, Task, other_wordings, revise
from models.toy.language_model import lm

LM = Path("models/toy/lm")
NUM_CASES = 40
REQUIRED = 0.9


def fields(task: Task) -> dict[str, str]:
    """The named inputs of a template: each has a line of its own."""
    return dict(line.split(": ", 1) for line in task.messages[0]["content"].splitlines()[1:])


def first_wordings(text: str) -> dict[str, str]:
    return {name: found[0][1] for name, found in mentions(text).items()}


def follows_short(task: Task, answer: str) -> bool:
    said, caption = first_wordings(answer), first_wordings(fields(task)["Description"])
    in_form = any(write_user_prompt(said, random.Random(seed)) == answer for seed in range(300))
    return 2 <= len(said) <= 4 and said.items() <= caption.items() and in_form


def follows_expand(task: Task, answer: str) -> bool:
    said, prompt = first_wordings(answer), first_wordings(fields(task)["Prompt"])
    return set(said) == set(ATTRIBUTES) and prompt.items() <= said.items() and answer == generic_prompt(said)


def follows_edit(task: Task, answer: str) -> bool:
    given = fields(task)
    current = given["Current prompt"]
    values = asked(given["Request"])
    wrong = re.findall(r"The (\w+) should be", given["Critique"])
    options = (other_wordings(name, values[name], current, []) for name in wrong)
    return any(
        answer == revise(current, dict(zip(wrong, wordings, strict=True))) for wordings in itertools.product(*options)
    )


def follows(name: str, task: Task, answer: str) -> bool:
    if name == "extract":
        try:
            return bool(json.loads(answer) == json.loads(task.answer))
        except json.JSONDecodeError:
            return False
    checks = {"deform_short": follows_short, "direct": follows_expand, "refactor": follows_expand, "edit": follows_edit}
    return checks[name](task, answer) if name in checks else answer == task.answer  # the others have one right answer


def cases(name: str, count: int) -> list[Task]:
    rng = random.Random(f"held out {name}")
    unseen = worlds("val") + worlds("test")
    return [TASKS[name](rng.choice(unseen), rng) for _ in range(count)]


@pytest.fixture(scope="module")
def toy_lm() -> TransformersLM:
    return TransformersLM(str(LM), batch_size=NUM_CASES, max_new_tokens=96)


@pytest.mark.parametrize("name", TASKS)
def test_answers_of_the_examples_pass_their_own_check(name: str) -> None:
    assert all(follows(name, task, task.answer) for task in cases(name, 100))


@pytest.mark.parametrize("name", TASKS)
def test_follows_the_template_on_held_out_worlds(name: str, toy_lm: TransformersLM) -> None:
    tasks = cases(name, NUM_CASES)
    answers = toy_lm.complete([task.messages for task in tasks], seed=0)
    followed = [follows(name, task, answer) for task, answer in zip(tasks, answers, strict=True)]
    wrong = [(t.messages[0]["content"], a) for t, a, right in zip(tasks, answers, followed, strict=True) if not right]
    assert sum(followed) >= REQUIRED * NUM_CASES, wrong[:3]


def test_sampled_edits_try_every_other_wording() -> None:
    sampler = TransformersLM(str(LM), batch_size=NUM_CASES, max_new_tokens=64, temperature=1.0)
    task = next(
        task
        for task in cases("edit", 200)
        if fields(task)["Current prompt"].startswith("a ")
        and "should" in str(task)
        and "Earlier attempts" not in fields(task)
    )
    [wrong, *_] = re.findall(r"The (\w+) should be", fields(task)["Critique"])
    answers = sampler.complete([task.messages] * NUM_CASES, seed=0)
    said = {first_wordings(answer).get(wrong) for answer in answers}
    value = asked(fields(task)["Request"])[wrong]
    assert said >= set(other_wordings(wrong, value, fields(task)["Current prompt"], []))


def test_committed_weights_are_half_precision_and_load_into_what_the_command_makes(tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text(json.dumps({"prompt": [{"role": "user", "content": "a"}], "completion": []}))
    lm(tmp_path / "init", data)
    committed = AutoModelForCausalLM.from_pretrained(LM)
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "init")
    sizes = {"vocab_size", "dtype", "_name_or_path"}  # the vocabulary comes from the texts
    committed_config, made_config = (model.config.to_dict() for model in (committed, made))
    assert {k: v for k, v in committed_config.items() if k not in sizes} == {
        k: v for k, v in made_config.items() if k not in sizes
    }
    vocabulary = committed.config.vocab_size
    assert vocabulary == len(AutoTokenizer.from_pretrained(LM))
    committed_shapes, made_shapes = (
        {
            name: tuple(size if size != model.config.vocab_size else -1 for size in tensor.shape)
            for name, tensor in model.state_dict().items()
        }
        for model in (committed, made)
    )
    assert committed_shapes == made_shapes
    assert {tensor.dtype for tensor in committed.parameters()} == {torch.float16}
    assert sum(file.stat().st_size for file in LM.iterdir()) < 5e6
