"""How much of a text a video model reads, found out from its checkpoint's tokenizer without loading the model."""

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from jsonargparse import Namespace
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from collect.backends.pipeline_loading import named_class

logger = logging.getLogger(__name__)

# Tokens that a pipeline cuts a prompt to where its call has no max_sequence_length; read in diffusers 0.42.
LIMITS = {
    "AnimateDiffPipeline": 77,
    "EasyAnimatePipeline": 256,
    "HunyuanVideo15Pipeline": 1000,
    "LattePipeline": 120,
    "TextToVideoSDPipeline": 77,
}
# Tokens that a chat template writes behind the prompt, which count too: <|im_end|>, and where an answer begins a line's
# end, <|im_start|>, assistant and a line's end.
BEHIND = {"HunyuanVideo15Pipeline": 5, "Kandinsky5T2VPipeline": 1}


@dataclass(frozen=True)
class TokenBudget:
    """Counts the tokens of texts as a pipeline of diffusers does.

    Args:
        name: of the pipeline's class.
        tokenizer: the pipeline's.
        max_tokens: how many of them it reads.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    max_tokens: int

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens that each text takes of the budget, with those that end it and without a template's in front."""
        if not texts:
            return []
        if self.name == "HunyuanVideoPipeline":
            template, before = DEFAULT_PROMPT_TEMPLATE["template"], DEFAULT_PROMPT_TEMPLATE["crop_start"]
            ids = self.tokenizer([template.format(text) for text in texts], verbose=False).input_ids
            return [max(0, len(row) - before) for row in ids]
        behind = BEHIND.get(self.name)
        ids = self.tokenizer(list(texts), add_special_tokens=behind is None, verbose=False).input_ids
        return [len(row) + (behind or 0) for row in ids]


def budget_of(generator: Mapping[str, Any]) -> TokenBudget | None:
    """The budget of the video model that a config names; ``None`` where nobody knows it.

    Only the checkpoint's index and its tokenizer are read.

    Args:
        generator: ``class_path`` and ``init_args``, as in YAML.
    """
    if not str(generator.get("class_path")).endswith("DiffusersGenerator"):
        return None
    settings = generator["init_args"]
    pretrained = settings["pretrained"]
    revision = {key: value for key, value in (settings.get("load_kwargs") or {}).items() if key == "revision"}
    name = settings.get("pipeline_class") or DiffusionPipeline.load_config(pretrained, **revision)["_class_name"]
    parameters = inspect.signature(named_class(name).__call__).parameters
    default = parameters["max_sequence_length"].default if "max_sequence_length" in parameters else LIMITS.get(name)
    limit = (settings.get("call_kwargs") or {}).get("max_sequence_length") or default
    if limit is None:
        return None
    tokenizer = AutoTokenizer.from_pretrained(pretrained, subfolder="tokenizer", **revision)
    return TokenBudget(name, tokenizer, limit)


def warn_of_long_prompts(prompts: Sequence[str], generator: Mapping[str, Any]) -> None:
    """Warn of prompts whose end a video model will not read."""
    budget = budget_of(generator)
    if budget is None:
        return
    for prompt, length in zip(prompts, budget.count(prompts), strict=True):
        if length > budget.max_tokens:
            logger.warning(
                "%s reads %d tokens and will not see the end of this prompt of %d: %r",
                budget.name,
                budget.max_tokens,
                length,
                prompt,
            )


def set_generator_of_gates(config: Any, generator: Mapping[str, Any]) -> None:
    """Put the video model into the config of every intent gate that names no number of tokens.

    Args:
        config: of a command, as jsonargparse has parsed it; changed in place.
        generator: ``class_path`` and ``init_args``.
    """
    if isinstance(config, (list, tuple)):
        for value in config:
            set_generator_of_gates(value, generator)
    if not isinstance(config, (dict, Namespace)):
        return
    if str(config.get("class_path")).endswith(".IntentGate"):
        settings = config.get("init_args")
        if settings is None:
            settings = config["init_args"] = Namespace()
        if settings.get("max_tokens") is None:
            settings["generator"] = dict(generator)
        return
    for value in vars(config).values() if isinstance(config, Namespace) else config.values():
        set_generator_of_gates(value, generator)
