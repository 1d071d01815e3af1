"""The README that goes with an exported rewriter."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_modules import JSONLDataModule
from data_modules.records import Message, Messages, Preference, Rewrite, read_records
from models import LoRAModule

CARD = """---
library_name: transformers
pipeline_tag: text-generation
base_model: {base}
---

# Prompt rewriter for a text-to-video model

{form} of `{base}`, trained by `{module}` on the {num_records} records of `{data}`; {weights}.

```python
from transformers import pipeline

rewriter = pipeline("text-generation", "{output_dir}")
print(rewriter(messages, max_new_tokens=256, return_full_text=False)[0]["generated_text"])
```

Give it `messages` as it was trained on them; only what the user wrote changes. One of its training prompts, and what
it learned to answer:

{example}
"""


def write_card(
    directory: Path,
    output_dir: Path,
    model: LoRAModule,
    data: JSONLDataModule,
    merge: bool,
    checkpoint: dict[str, Any] | None,
) -> None:
    """Say in ``directory/README.md`` what the rewriter is, what it learned from and how to prompt it.

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
    card = CARD.format(
        base=model.pretrained,
        form="A fine-tuned copy" if merge or model.lora is None else "LoRA adapters",
        module=type(model).__name__,
        num_records=len(records),
        data=data.path("train"),
        weights=f"weights after {checkpoint['global_step']} optimiser steps" if checkpoint else "initial weights",
        output_dir=output_dir,
        example=_quoted([*records[0].prompt, *_answer(records[0])]),
    )
    (directory / "README.md").write_text(card, encoding="utf-8")


def _answer(record: Rewrite | Preference) -> Messages:
    """What a record teaches to say."""
    return record.chosen if isinstance(record, Preference) else record.completion


def _quoted(messages: Sequence[Message]) -> str:
    """Messages as an indented block, which Markdown shows as it is."""
    lines = [line for message in messages for line in f"[{message['role']}] {message['content']}".splitlines()]
    return "\n".join(f"    {line}" for line in lines)
