"""Chat templates by which a model answers at once, without reasoning: what is trained is the answer alone."""

import json
import re
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from data_modules.conversation import apply_template
from data_modules.records import Messages

_PROMPT: Messages = [{"role": "user", "content": "a bird"}]
_ANSWER = "A bird flies over the lake"
_OPENED = re.compile(r"<think>\s*\Z")
_CLOSED = "\n</think>\n\n"
_EMPTY = re.compile(r"<think>\s*</think>\s*\Z")


def direct_template(tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, Any]) -> str | dict[str, str]:
    """A tokenizer's chat template, or templates by name, with answers that begin where the prompt ends.

    Templates of models that reason write something before an answer that has no reasoning, such as an empty block
    (Qwen3), or the end of a block that the prompt has opened (Qwen3.5). It becomes the end of the prompt, and so does
    not have to be learned, nor to be taken off answers.

    Args:
        tokenizer: with a chat template.
        variables: values of the template's variables, such as ``enable_thinking``, whatever a caller says.

    Raises:
        ValueError: if the template does not read one of the variables.
    """
    templates = tokenizer.chat_template
    named = templates if isinstance(templates, dict) else {"default": templates}
    for name in variables:
        if not any(re.search(rf"\b{re.escape(name)}\b", template) for template in named.values()):
            raise ValueError(
                f"the chat template of {tokenizer.name_or_path} reads no variable {name}; take it out of "
                "data.init_args.chat_template_kwargs."
            )
    direct = {name: _direct(tokenizer, template, variables) for name, template in named.items()}
    return direct if isinstance(templates, dict) else direct["default"]


def without_empty_reasoning(asked: str) -> str:
    """A prompt without the empty block of reasoning it may end in, which some templates drop once it is answered."""
    return _EMPTY.sub("", asked)


def _direct(tokenizer: PreTrainedTokenizerBase, template: str, variables: Mapping[str, Any]) -> str:
    for name, value in variables.items():
        template = re.sub(rf"\A((?:{{% set \w+ = .*? %}})*?){{% set {name} = .*? %}}", r"\1", template)
        template = f"{{% set {name} = {value!r} %}}{template}"
    asked = apply_template(tokenizer, _PROMPT, chat_template=template)
    answer = {"role": "assistant", "content": _ANSWER}
    whole = apply_template(tokenizer, [*_PROMPT, answer], add_generation_prompt=False, chat_template=template)
    opening = ""
    if whole.startswith(asked) and _ANSWER in whole:
        opening = whole[len(asked) :].partition(_ANSWER)[0]
    elif _OPENED.search(asked):
        opening = _CLOSED
    if not opening.strip():
        return template
    return template.removesuffix("\n") + f"{{% if add_generation_prompt %}}{{{{ {json.dumps(opening)} }}}}{{% endif %}}"
