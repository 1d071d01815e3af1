"""Base models that are held once in a process, and the adapters that are switched on them."""

import hashlib
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from peft import PeftConfig, PeftModelForCausalLM
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from data_modules.files import require_whole_files
from data_modules.template_check import check_template

logger = logging.getLogger(__name__)


class ResidentModel:
    """A base model with its tokenizer, and the adapters that are switched on it.

    Args:
        pretrained: Hugging Face id or directory with weights and tokenizer.
        device: where the model runs.
        dtype: precision of the weights, as torch names it.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if one of its files is not whole, or the tokenizer has no chat template, or one that fails.
    """

    def __init__(self, pretrained: str, device: str, dtype: str) -> None:
        require_whole_files(pretrained)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(pretrained, padding_side="left")
            self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(pretrained, dtype=getattr(torch, dtype))
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"no language model could be loaded from {pretrained!r}; give a directory that `train export` wrote, "
                f"or the id of a model that was downloaded before ({error})"
            ) from error
        if self.tokenizer.chat_template is None:
            raise ValueError(f"the tokenizer of {pretrained!r} has no chat template; use a model tuned for chat")
        check_template(self.tokenizer)
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model.generation_config = greedy_settings(self.model.generation_config, self.tokenizer)
        self.pretrained = pretrained
        self.model.to(torch.device(device)).eval()
        self._adapted: PeftModelForCausalLM | None = None

    @classmethod
    def get(cls, pretrained: str, device: str, dtype: str) -> "ResidentModel":
        """Take the one model of these settings in this process; it is freed with the last that uses it."""
        key = (_place(pretrained), device, dtype)
        resident = _RESIDENT.get(key)
        if resident is None:
            _RESIDENT[key] = resident = cls(pretrained, device, dtype)
        return resident

    def add(self, adapter: str) -> str:
        """Load an adapter unless it is there already; return the name it is switched on by.

        Raises:
            FileNotFoundError: if there is no adapter.
            ValueError: if one of its files is not whole, or it does not fit this model.
        """
        require_whole_files(adapter)
        try:
            config = PeftConfig.from_pretrained(adapter)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"no adapter could be loaded from {adapter!r}; give a directory that `train export --merge false` or "
                f"PEFT wrote, or name a whole model as `pretrained` ({error})"
            ) from error
        # PEFT's names are parts of module paths, where a full stop would be a separator.
        name = hashlib.sha256(_place(adapter).encode()).hexdigest()[:16]
        if self._adapted is not None and name in self._adapted.peft_config:
            return name
        made_for = config.base_model_name_or_path
        if made_for and Path(made_for).name != Path(self.pretrained).name:
            logger.warning("The adapter %s was trained on %s and is used on %s.", adapter, made_for, self.pretrained)
        try:
            if self._adapted is None:
                self._adapted = PeftModelForCausalLM(self.model, config, name)
            self._adapted.load_adapter(adapter, name)
        except (RuntimeError, ValueError) as error:
            if self._adapted is not None and name in self._adapted.peft_config:
                self._adapted.delete_adapter(name)
            raise ValueError(f"the adapter {adapter} does not fit the model {self.pretrained}: {error}") from error
        self._adapted.eval()
        return name

    @property
    def context_length(self) -> float:
        """Most tokens that the model was made for; infinite where positions have no end, as in Bloom."""
        return float(getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", math.inf))

    @contextmanager
    def using(self, name: str | None) -> Iterator[PreTrainedModel | PeftModelForCausalLM]:
        """Give the model with one adapter switched on, or with none."""
        if self._adapted is None:
            yield self.model
        elif name is None:
            with self._adapted.disable_adapter():
                yield self.model
        else:
            self._adapted.set_adapter(name)
            yield self._adapted


# What is in use, by place or id, device and precision.
_RESIDENT: WeakValueDictionary[tuple[str, str, str], ResidentModel] = WeakValueDictionary()


def greedy_settings(own: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Settings under which the most likely token is taken, of all that a model may say.

    A model's own settings may sample, and may punish words that came before, which a rewrite must repeat. What
    ``train export`` writes is the same, so that an exported rewriter answers alike as an adapter and merged.

    Args:
        own: the model's.
        tokenizer: whose end token ends an answer, too.
    """
    kept = ("bos_token_id", "stop_strings", "suppress_tokens", "begin_suppress_tokens")
    also = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    ends = [end for end in dict.fromkeys([tokenizer.eos_token_id, *also]) if end is not None]
    return GenerationConfig(
        do_sample=False,
        eos_token_id=ends[0] if len(ends) == 1 else ends or None,
        pad_token_id=tokenizer.pad_token_id,
        **{name: value for name in kept if (value := getattr(own, name)) is not None},
    )


def _place(name: str) -> str:
    """A directory's full path, or the id of what is no directory."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name
