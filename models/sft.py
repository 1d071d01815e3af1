"""Supervised fine-tuning of a rewriter: the stage-1 refactorer and stage-3 tuning."""

import inspect
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jinja2.exceptions import TemplateError
from peft import AutoPeftModelForCausalLM, PeftModel, TaskType
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from models.base import Batch, LoRAModule, Mean
from models.four_bit import four_bit_config
from models.functional import LinearLogProbs, token_log_probs

PROBE = "a yellow bird on a lake at night"
PROBES: list[list[dict[str, str]]] = [
    [{"role": "user", "content": PROBE}],
    [{"role": "system", "content": "Answer in one sentence."}, {"role": "user", "content": PROBE}],
    [
        {"role": "user", "content": PROBE},
        {"role": "assistant", "content": "A yellow bird floats on a dark lake."},
        {"role": "user", "content": "Une for\u00eat sous la neige, \u96ea\u306e\u68ee"},
    ],
]
LONG_PROBE = 1024  # tokens, or half the context of a model that has less
NUM_WRITTEN = 16  # tokens
WEIGHT_ROUNDING = 8  # by how many units of the written precision rounding all weights may move the largest logit


class SFTModule(LoRAModule):
    """Next-token cross-entropy on completion tokens only, averaged over the tokens of the optimiser step.

    Args:
        pretrained: Hugging Face id or directory of a causal language model whose tokenizer has a chat template.
        **kwargs: see :class:`~models.base.LoRAModule`.
    """

    task_type: ClassVar[TaskType] = TaskType.CAUSAL_LM

    def load_backbone(self) -> PreTrainedModel:
        """Load the language model in the trainer's precision, whatever precision its file has.

        Raises:
            ValueError: if its files do not hold one.
        """
        quantised: dict[str, Any] = {}
        if self.four_bit:
            quantised = {
                "quantization_config": four_bit_config(),
                "device_map": {"": self.trainer.strategy.root_device},
            }
        try:
            model = AutoModelForCausalLM.from_pretrained(self.pretrained, dtype=torch.get_default_dtype(), **quantised)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(
                f"{self.pretrained} holds no whole language model ({reason}); copy or download it again."
            ) from error
        self.plain_head = has_plain_head(model)
        self.separates = separates_packed(model)
        return model

    def measure(self, batch: Batch) -> dict[str, Mean]:
        """Score ``input_ids`` ``(B, T)`` where ``completion_mask`` ``(B, T)`` is 1."""
        log_probs, is_best = self.score(batch)
        number = log_probs.new_tensor(len(log_probs), dtype=torch.long)
        return {
            "loss": Mean(-log_probs.sum(), number, "tokens"),
            "token_accuracy": Mean(is_best.float().sum(), number, "tokens"),
        }

    def score(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Score the completion tokens of a batch, in row order; each is predicted at the position before its own.

        The head, whose logits are the widest thing in a step, works on those positions alone.

        Args:
            batch: ``input_ids`` and ``completion_mask``, ``(B, T)``, with ``attention_mask``, ``(B, T)`` or
                ``(B, 1, T, T)``, or without it and with ``position_ids``, ``(B, T)``, that start again where another
                sequence does.

        Returns:
            See :func:`~models.functional.token_log_probs`.

        Raises:
            ValueError: if the batch is packed and the network would not keep its sequences apart.
        """
        assert self.model is not None
        if "attention_mask" not in batch and not self.separates:
            raise ValueError(
                f"{self.pretrained} does not keep the examples of a packed row apart; set data.init_args.packing to "
                "false."
            )
        model = self.network
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}
        scored = batch["completion_mask"][:, 1:].bool()
        targets = batch["input_ids"][:, 1:][scored]
        if (
            not self.plain_head or self.device_mesh is not None
        ):  # sharded weights are gathered by the network's own call
            return token_log_probs(model(**inputs, use_cache=False).logits[:, :-1][scored], targets)
        hidden = model.base_model(**inputs, use_cache=False).last_hidden_state[:, :-1][scored]
        head = model.get_output_embeddings()
        if type(head) is not nn.Linear or head.weight.requires_grad:
            return token_log_probs(head(hidden), targets)
        return LinearLogProbs.apply(hidden, head.weight, targets)

    def export(self, output_dir: Path, merge: bool, dtype: torch.dtype | None) -> None:
        """Write the rewriter, then load it again and compare, in the precision that it was trained in.

        Raises:
            ValueError: if what was written does not ask or answer as the trained network does.
        """
        assert self.model is not None
        tokenizer = AutoTokenizer.from_pretrained(self.pretrained)
        settings = greedy_settings(self.model.generation_config, tokenizer)
        probes = [*PROBES, long_probe(tokenizer, context_length(self.model))]
        computed = self.model.dtype
        asked = [render(tokenizer, messages) for messages in probes]
        expected = [answer(self.model, tokenizer, text) for text in asked if text is not None]
        super().export(output_dir, merge, dtype)
        settings.save_pretrained(output_dir)
        loader = AutoModelForCausalLM if merge or not isinstance(self.model, PeftModel) else AutoPeftModelForCausalLM
        stored = self.model.dtype
        written = loader.from_pretrained(output_dir, dtype=computed)
        tokenizer = AutoTokenizer.from_pretrained(output_dir)
        for messages, text in zip(probes, asked, strict=True):
            if render(tokenizer, messages) != text:
                raise ValueError(
                    f"{output_dir} renders {messages} otherwise than {self.pretrained}; nothing was exported."
                )
        got = [answer(written, tokenizer, text) for text in asked if text is not None]
        try:
            require_equal_answers(expected, got, output_dir, stored)
        except ValueError as error:
            if not merge or self.lora is None:
                raise
            raise ValueError(
                f"{error} The adapters are so large that folding them into the weights, in {stored}, rounds "
                "off what they learned; `--merge false` exports them as they are."
            ) from error
        if not isinstance(written, PeftModel):  # adapters take the settings of their base
            inputs = tokenizer(next(filter(None, asked)), add_special_tokens=False, return_tensors="pt")
            generated = written.generate(
                inputs=inputs.input_ids, attention_mask=inputs.attention_mask, max_new_tokens=NUM_WRITTEN
            )
            text = generated[0, inputs.input_ids.shape[1] :].tolist()
            if text != got[0][1][: len(text)]:
                raise ValueError(
                    f"{output_dir} answers {text} with its own settings, not {got[0][1]}; nothing was exported."
                )


def greedy_settings(base: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Settings under which any program that loads the export writes what was verified: the most likely tokens.

    Of the base's settings, its tokens and limits are kept. Its sampling is not, since a rewriter is trained and
    measured greedily, and neither are its penalties: a penalty on repetition falls on the user's own words, which a
    rewrite must repeat.
    """
    kept = ("bos_token_id", "max_new_tokens", "stop_strings", "suppress_tokens", "begin_suppress_tokens")
    ends = base.eos_token_id if isinstance(base.eos_token_id, list) else [base.eos_token_id]
    ends = [tokenizer.eos_token_id, *(end for end in ends if end not in (None, tokenizer.eos_token_id))]
    return GenerationConfig(
        do_sample=False,
        eos_token_id=ends[0] if len(ends) == 1 else ends,
        pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        **{name: value for name in kept if (value := getattr(base, name)) is not None},
    )


def context_length(model: PreTrainedModel | PeftModel) -> int | None:
    """Most tokens that a network was made for; ``None`` if its positions have no end, as in Bloom."""
    limit: int | None = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return limit


def long_probe(tokenizer: PreTrainedTokenizerBase, context: int | None) -> list[dict[str, str]]:
    """A conversation of about ``LONG_PROBE`` tokens, or half the context if that is less."""
    once = len(tokenizer(f"{PROBE} ", add_special_tokens=False).input_ids)
    length = LONG_PROBE if context is None else min(context // 2, LONG_PROBE)
    return [{"role": "user", "content": f"{PROBE} " * max(1, length // once)}]


def render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str | None:
    """Text of a conversation up to the answer; ``None`` if the chat template refuses it, as some do a system turn."""
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except TemplateError:
        return None


def tokens_of(model: PreTrainedModel, number: int) -> Tensor:
    """Tokens from all over the vocabulary, ``(number,)``, the first and the last among them.

    They are computed in integers: half precision tells large ones apart only by tens or hundreds.
    """
    last = model.get_input_embeddings().num_embeddings - 1
    return torch.arange(number, device=model.device) * last // (number - 1)


@torch.no_grad()
def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether logits are the last hidden state times the head's weights, as in Llama and Qwen, and nothing more.

    Gemma 2 caps its logits and Cohere scales them, to name two that do more.
    """
    # Of several tokens: a padding token may be embedded as zeros, which no cap or scale changes.
    words = tokens_of(model, 8)[None]
    hidden = model.base_model(words, use_cache=False).last_hidden_state
    return torch.equal(model(words, use_cache=False).logits, F.linear(hidden, model.get_output_embeddings().weight))


@torch.no_grad()
def separates_packed(model: PreTrainedModel) -> bool:
    """Whether positions that start again within a row are taken for another sequence, as in all but recurrent ones."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    words = tokens_of(model, 5)
    ids = words[[1, 2, 3, 2, 3]][None]
    positions = torch.tensor([[0, 1, 2, 0, 1]], device=model.device)
    alone = model(ids[:, 3:], position_ids=positions[:, 3:], use_cache=False).logits
    packed = model(ids, position_ids=positions, use_cache=False).logits[:, 3:]
    tolerance = max(1e-3, 4 * torch.finfo(alone.dtype).eps) * float(alone.abs().max())
    return bool((alone - packed).abs().max() <= tolerance)


@torch.no_grad()
def answer(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[Tensor, list[int]]:
    """Logits ``(T, V)`` of a rendered conversation and its greedy continuation, of up to ``NUM_WRITTEN`` tokens.

    The last token's own are not among the logits.
    """
    model = model.cpu().eval()
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    output = model(input_ids=ids, use_cache=True)
    logits, written = [output.logits[0]], list[int]()
    while True:  # `generate` has settings of its own
        token = output.logits[:, -1:].argmax(-1)
        written.append(int(token))
        if len(written) == NUM_WRITTEN or tokenizer.eos_token_id in written:
            return torch.cat(logits), written
        output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
        logits.append(output.logits[0])


def require_equal_answers(
    expected: Sequence[tuple[Tensor, list[int]]],
    got: Sequence[tuple[Tensor, list[int]]],
    written: Path,
    dtype: torch.dtype,
) -> None:
    """Compare results of :func:`answer`, prompt by prompt.

    The logits may differ by rounding: merging adapters adds two matrices that were multiplied one after the other, and
    every weight is rounded to the precision that is written. The texts may part where two tokens are as likely, to
    rounding; what follows is not compared.

    Args:
        expected: of the trained network.
        got: of what was written.
        written: where.
        dtype: of the written weights.

    Raises:
        ValueError: if logits or greedy text differ.
    """
    for (logits, text), (written_logits, written_text) in zip(expected, got, strict=True):
        same = 0
        while text[same : same + 1] == written_text[same : same + 1] != []:
            same += 1
        shared = len(logits) - len(text) + 1 + min(same, len(text) - 1)
        rounding = max(200 * torch.finfo(logits.dtype).eps, WEIGHT_ROUNDING * torch.finfo(dtype).eps)
        tolerance = rounding * float(logits.float().abs().max())
        difference = float((logits[:shared].float() - written_logits[:shared].float()).abs().max())
        if not difference <= tolerance:
            raise ValueError(
                f"{written} gives logits that differ by {difference:.2g} from the trained network's "
                f"(rounding explains {tolerance:.2g}); nothing was exported."
            )
        if text[same : same + 1] != written_text[same : same + 1]:
            best = logits[shared - 1].float()
            if not float(best.max() - best[written_text[same]]) <= 2 * tolerance:
                raise ValueError(
                    f"{written} answers {written_text} and the trained network {text}; nothing was exported."
                )
