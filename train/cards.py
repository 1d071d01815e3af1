"""The README that goes with an exported language model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_modules import JSONLDataModule
from data_modules.records import Choice, Message, Messages, Preference, Rewrite, read_records
from models import LoRAModule

CARD = """---
library_name: transformers
pipeline_tag: text-generation
base_model: {base}
---

# {title} for a text-to-video model

{form} of `{base}`, trained by `{module}` on the {num_records} records of `{data}`; {weights}.

{usage}

Give it `messages` as it was trained on them; only what the user wrote changes. One of its training prompts, and what
it learned to answer:

{example}
"""
REWRITER = """```python
from transformers import pipeline

rewriter = pipeline("text-generation", "{output_dir}")
print(rewriter(messages, max_new_tokens=256, return_full_text=False)[0]["generated_text"])
```"""
DISCRIMINATOR = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{output_dir}")
discriminator = AutoModelForCausalLM.from_pretrained("{output_dir}")
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
labels = tokenizer.convert_tokens_to_ids(["A", "B"])
print(discriminator(**inputs).logits[0, -1, labels].softmax(-1))
```

Only the two labels mean something as its answer. Ask in both orders and take the mean."""


def write_card(
    directory: Path,
    output_dir: Path,
    model: LoRAModule,
    data: JSONLDataModule,
    merge: bool,
    checkpoint: dict[str, Any] | None,
) -> None:
    """Say in ``directory/README.md`` what the model is, what it learned from and how to prompt it.

    Args:
        directory: where to write.
        output_dir: what the directory will be called in the end.
        model: what was trained.
        data: what it was trained on.
        merge: whether adapters were folded into the weights.
        checkpoint: the Lightning checkpoint whose weights were exported; ``None`` for the initial ones.

    Raises:
        FileNotFoundError: if the training records are gone, which the card must describe.
    """
    records = read_records(data.path("train"), data.record)
    title, usage = ("Discriminator", DISCRIMINATOR) if data.record is Choice else ("Prompt rewriter", REWRITER)
    card = CARD.format(
        base=model.pretrained,
        title=title,
        usage=usage.format(output_dir=output_dir),
        form="A fine-tuned copy" if merge or model.lora is None else "LoRA adapters",
        module=type(model).__name__,
        num_records=len(records),
        data=data.path("train"),
        weights=f"weights after {checkpoint['global_step']} optimiser steps" if checkpoint else "initial weights",
        example=_quoted([*records[0].prompt, *_answer(records[0])]),
    )
    (directory / "README.md").write_text(card, encoding="utf-8")


def _answer(record: Rewrite | Preference | Choice) -> Messages:
    """What a record teaches to say."""
    if isinstance(record, Choice):
        return [{"role": "assistant", "content": record.label}]
    return record.chosen if isinstance(record, Preference) else record.completion


def _quoted(messages: Sequence[Message]) -> str:
    """Messages as an indented block, which Markdown shows as it is."""
    lines = [line for message in messages for line in f"[{message['role']}] {message['content']}".splitlines()]
    return "\n".join(f"    {line}" for line in lines)
