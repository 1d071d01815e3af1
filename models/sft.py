"""Supervised fine-tuning of a rewriter: the stage-1 refactorer and stage-3 tuning."""

import inspect
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from peft import AutoPeftModelForCausalLM, PeftModel, TaskType
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from models.base import Batch, LoRAModule
from models.functional import LinearLogProbs, token_log_probs

PROBE = "a yellow bird on a lake at night"


class SFTModule(LoRAModule):
    """Next-token cross-entropy on completion tokens only, averaged over the tokens of the batch.

    Args:
        pretrained: Hugging Face id or directory of a causal language model whose tokenizer has a chat template.
        **kwargs: see :class:`~models.base.LoRAModule`.
    """

    task_type: ClassVar[TaskType] = TaskType.CAUSAL_LM

    def load_backbone(self) -> PreTrainedModel:
        """Load the language model in the trainer's precision, whatever precision its file has."""
        model = AutoModelForCausalLM.from_pretrained(self.pretrained, dtype=torch.get_default_dtype())
        self.plain_head = has_plain_head(model)
        self.separates = separates_packed(model)
        return model

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Score ``input_ids`` ``(B, T)`` where ``completion_mask`` ``(B, T)`` is 1."""
        log_probs, is_best = self.score(batch)
        return {"loss": -log_probs.mean(), "token_accuracy": is_best.float().mean()}

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
        model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}
        scored = batch["completion_mask"][:, 1:].bool()
        targets = batch["input_ids"][:, 1:][scored]
        if not self.plain_head:
            return token_log_probs(model(**inputs, use_cache=False).logits[:, :-1][scored], targets)
        hidden = model.base_model(**inputs, use_cache=False).last_hidden_state[:, :-1][scored]
        head = model.get_output_embeddings()
        if type(head) is not nn.Linear or head.weight.requires_grad:
            return token_log_probs(head(hidden), targets)
        return LinearLogProbs.apply(hidden, head.weight, targets)

    def export(self, output_dir: Path, merge: bool) -> None:
        """Write the rewriter, then load it again and compare.

        Raises:
            ValueError: if what was written does not answer as the trained network does.
        """
        assert self.model is not None
        tokenizer = AutoTokenizer.from_pretrained(self.pretrained)
        expected = answer(self.model, tokenizer)
        super().export(output_dir, merge)
        greedy = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
        greedy.save_pretrained(output_dir)
        loader = AutoModelForCausalLM if merge or not isinstance(self.model, PeftModel) else AutoPeftModelForCausalLM
        written = loader.from_pretrained(output_dir, dtype=self.model.dtype)
        require_equal_answers(expected, answer(written, tokenizer), output_dir)


@torch.no_grad()
def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether logits are the last hidden state times the head's weights, as in Llama and Qwen, and nothing more.

    Gemma 2 caps its logits and Cohere scales them, to name two that do more.
    """
    # Tokens from all over the vocabulary: a padding token may be embedded as zeros, which no cap or scale changes.
    words = torch.linspace(0, model.get_input_embeddings().num_embeddings - 1, 8, device=model.device).long()[None]
    hidden = model.base_model(words, use_cache=False).last_hidden_state
    return torch.equal(model(words, use_cache=False).logits, F.linear(hidden, model.get_output_embeddings().weight))


@torch.no_grad()
def separates_packed(model: PreTrainedModel) -> bool:
    """Whether positions that start again within a row are taken for another sequence, as in all but recurrent ones."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    words = torch.linspace(0, model.get_input_embeddings().num_embeddings - 1, 5, device=model.device).long()
    ids = words[[1, 2, 3, 2, 3]][None]
    positions = torch.tensor([[0, 1, 2, 0, 1]], device=model.device)
    alone = model(ids[:, 3:], position_ids=positions[:, 3:], use_cache=False).logits
    packed = model(ids, position_ids=positions, use_cache=False).logits[:, 3:]
    tolerance = max(1e-3, 4 * torch.finfo(alone.dtype).eps) * float(alone.abs().max())
    return bool((alone - packed).abs().max() <= tolerance)


@torch.no_grad()
def answer(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> tuple[Tensor, list[int]]:
    """Logits ``(T, V)`` of a fixed prompt, and its greedy continuation of up to 16 tokens."""
    model = model.cpu().eval()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROBE}], tokenize=False, add_generation_prompt=True
    )
    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    greedy = GenerationConfig(
        max_new_tokens=16, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    written = model.generate(**inputs, generation_config=greedy)
    return model(**inputs).logits[0], written[0].tolist()


def require_equal_answers(expected: tuple[Tensor, list[int]], got: tuple[Tensor, list[int]], written: Path) -> None:
    """Compare two results of :func:`answer`.

    The logits may differ by rounding: merging adapters adds two matrices that were multiplied one after the other.

    Raises:
        ValueError: if logits or greedy text differ.
    """
    (logits, text), (written_logits, written_text) = expected, got
    tolerance = 200 * torch.finfo(logits.dtype).eps * float(logits.float().abs().max())
    difference = float((logits.float() - written_logits.float()).abs().max())
    if not difference <= tolerance:
        raise ValueError(
            f"{written} gives logits that differ by {difference:.2g} from the trained network's "
            f"(rounding explains {tolerance:.2g}); nothing was exported."
        )
    if text != written_text:
        raise ValueError(f"{written} answers {written_text} and the trained network {text}; nothing was exported.")
