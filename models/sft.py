"""Supervised fine-tuning of a rewriter: the stage-1 refactorer and stage-3 tuning."""

from pathlib import Path
from typing import ClassVar

import torch
from peft import AutoPeftModelForCausalLM, PeftModel, TaskType
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from models.base import Batch, LoRAModule
from models.functional import sequence_log_probs, token_accuracy

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
        return AutoModelForCausalLM.from_pretrained(self.pretrained, dtype=torch.get_default_dtype())

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Score ``input_ids`` ``(B, T)`` where ``completion_mask`` ``(B, T)`` is 1."""
        assert self.model is not None
        logits = self.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        scored = logits, batch["input_ids"], batch["completion_mask"]
        return {
            "loss": -sequence_log_probs(*scored).sum() / batch["completion_mask"][:, 1:].sum(),
            "token_accuracy": token_accuracy(*scored),
        }

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
