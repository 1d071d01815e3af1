"""A rewriter's chat template that also understands programs which bring a system prompt of their own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from data_modules.records import Messages
from data_modules.templates import refactor

_BEFORE, _, _AFTER = refactor("\0")[0]["content"].partition("\0")
INSTRUCTION = _BEFORE.partition("\n")[0]
_LABEL = "\n" + _BEFORE.rpartition("\n")[2]

# What programs put around the user's prompt: https://github.com/Lightricks/LTX-Video ltx_video/utils/
# prompt_enhance_utils.py; diffusers pipelines/ltx2/pipeline_ltx2.py; https://github.com/PKU-YuanGroup/Open-Sora-Plan
# opensora/sample/caption_refiner.py at 406d287.
_WRAPPINGS = (
    ("user_prompt: ", ""),
    ("user prompt: ", ""),
    ('\nRefine the sentence: "', '" to contain subject description'),
)

# `messages` is what chat templates read; with less than two turns there is nothing to ask for. The empty expression at
# the end keeps the whitespace that a template may begin with.
_ADAPTER = """\
{#- A conversation that opens with a system turn comes from a program with instructions of its own. They are left out,
and what its user says, without what the program puts around it, is asked for in the words that this rewriter was
trained with. -#}
{%- if messages | length > 1 and messages[0]['role'] == 'system' -%}
{%- set asked = namespace(turns=[], text='') -%}
{%- for message in messages[1:] -%}
{%- if message['role'] != 'user' or message['content'] is not string or message['content'].startswith(INSTRUCTION) -%}
{%- set asked.turns = asked.turns + [message] -%}
{%- else -%}
{%- set asked.text = message['content'] -%}
{%- for wrapping in WRAPPINGS -%}
{%- if asked.text.startswith(wrapping[0]) -%}
{%- set asked.text = asked.text[wrapping[0] | length:] -%}
{%- if wrapping[1] -%}{%- set asked.text = asked.text.split(wrapping[1])[0] -%}{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- set asked.turns = asked.turns + [{'role': 'user', 'content': BEFORE + asked.text + AFTER}] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = asked.turns -%}
{%- endif -%}
{{- '' -}}
""".rstrip("\n")


def is_asked_for_captions(prompts: Sequence[Messages]) -> bool:
    """Whether every prompt is one turn in the words of :func:`~data_modules.templates.refactor`."""
    return all(len(prompt) == 1 and prompt[0]["content"].startswith(INSTRUCTION) for prompt in prompts)


def bare_prompt(prompt: Messages) -> str:
    """What the user said, without the words it is asked for in."""
    return prompt[0]["content"].partition(_LABEL)[2].removesuffix(_AFTER)


def adapted(template: str) -> str:
    """Put before a chat template, of any family, what turns other programs' conversations into the trained one.

    Conversations without a system turn, such as all of this project's, are rendered as before; so is a system prompt
    that the template itself adds to them.
    """
    words = {"INSTRUCTION": INSTRUCTION, "BEFORE": _BEFORE, "AFTER": _AFTER, "WRAPPINGS": _WRAPPINGS}
    adapter = _ADAPTER
    for name, text in words.items():
        adapter = adapter.replace(name, json.dumps(text))
    return template if template.startswith(adapter) else adapter + template


def set_chat_template(directory: Path, template: str | dict[str, str]) -> None:
    """Give an exported tokenizer the chat template that was trained, where that is not its base's."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    if tokenizer.chat_template != template:
        tokenizer.chat_template = template
        tokenizer.save_pretrained(directory)


def adapt_chat_template(directory: Path) -> None:
    """Let the rewriter in a directory answer programs that send a system prompt and the user's bare prompt.

    Raises:
        ValueError: if the adapted template does not ask in the trained words then, or asks otherwise than before.
    """
    tokenizer = AutoTokenizer.from_pretrained(directory)
    plain = AutoTokenizer.from_pretrained(directory)
    templates = plain.chat_template
    if isinstance(templates, dict):  # some models have one for tools beside the default
        tokenizer.chat_template = {name: adapted(template) for name, template in templates.items()}
    else:
        tokenizer.chat_template = adapted(templates)
    tokenizer.save_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    bare, own = "a yellow bird on a lake", refactor("a yellow bird on a lake")
    foreign: Messages = [{"role": "system", "content": "Extend prompts."}, {"role": "user", "content": bare}]
    ruled: Messages = [
        *refactor(bare, "it must float"),
        {"role": "assistant", "content": "A bird."},
        *refactor("a boat"),
    ]
    cases: list[tuple[Messages, Messages]] = [(foreign, own), (own, own), (ruled, ruled), ([foreign[0], *own], own)]
    for before, after in _WRAPPINGS:
        asked: Messages = [foreign[0], {"role": "user", "content": f"{before}{bare}{after}"}]
        cases.append((asked, own))
    for messages, trained in cases:
        if _rendered(tokenizer, messages) != _rendered(plain, trained):
            raise ValueError(
                f"the chat template of {directory} can't be adapted to programs with a system prompt: {messages} comes "
                f"out as {_rendered(tokenizer, messages)!r} and not as trained; nothing was exported."
            )


def doubles_start(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether tokenising rendered text with default settings, as Wan2.1 does, adds a second start token."""
    text = _rendered(tokenizer, refactor("a bird"))
    return bool(tokenizer(text).input_ids != tokenizer(text, add_special_tokens=False).input_ids)


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Any]) -> str:
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
