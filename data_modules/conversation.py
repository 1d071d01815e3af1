"""Conversations as text, rendered in one place: what is trained and what a model is asked are the same tokens."""

import re
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from data_modules.records import Message, Messages

# How chat models write the marks between turns; in a user's text they must not be read as such.
CONTROL = re.compile(
    r"<\|[\w ]+\|>|<\uff5c[^\uff5c<>]+\uff5c>|</?s>|\[/?(?:INST|SYSTEM_PROMPT)\]|<</?SYS>>|</?(?:start|end)_of_turn>"
)


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    marks: re.Pattern[str],
    *,
    add_generation_prompt: bool = True,
) -> str:
    """Text of a conversation whose only marks between turns are those that the chat template writes.

    Args:
        tokenizer: whose chat template is used.
        messages: the conversation.
        marks: of that tokenizer, see :func:`special_tokens_of`.
        add_generation_prompt: end where an answer begins.
    """
    turns = [escape_special_tokens(message, marks) for message in messages]
    return apply_template(tokenizer, turns, add_generation_prompt=add_generation_prompt)


def apply_template(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Any],
    *,
    add_generation_prompt: bool = True,
    chat_template: str | None = None,
) -> str:
    """Text of a conversation, as it stands.

    Args:
        tokenizer: whose chat template is used.
        messages: the conversation.
        add_generation_prompt: end where an answer begins.
        chat_template: another template.
    """
    settings = {"tokenize": False, "add_generation_prompt": add_generation_prompt, "chat_template": chat_template}
    return str(tokenizer.apply_chat_template(list(messages), **settings))


def special_tokens_of(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Match every special token of a tokenizer."""
    specials = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return re.compile("|".join(map(re.escape, sorted(specials, key=len, reverse=True))) or "(?!)")


def escape_special_tokens(message: Message, marks: re.Pattern[str] = CONTROL) -> Message:
    """A message in which nothing can be read as a mark between turns: such marks are split by a blank."""

    def split(match: re.Match[str]) -> str:
        return f"{match.group()[0]} {match.group()[1:]}"

    return Message(role=message["role"], content=marks.sub(split, CONTROL.sub(split, message["content"])))
