"""Write the toy world's captions and prompts: ``python -m data_modules.toyworld --output_dir outputs/toy/data``."""

import random
from collections.abc import Callable
from pathlib import Path

from jsonargparse import auto_cli

from data_modules.records import Caption, Prompt, content_id, write_records
from data_modules.toyworld.grammar import Split, World, caption, user_prompt, worlds

MAX_DRAWS = 200  # per text, before a split is taken to have no more different texts


def write(
    output_dir: Path,
    num_captions: int = 600,
    num_train_prompts: int = 480,
    num_val_prompts: int = 120,
    num_test_prompts: int = 200,
    seed: int = 0,
) -> None:
    """Write ``captions.jsonl`` and ``prompts/{train,val,test}.jsonl``; no text comes twice.

    Captions show combinations of the training split. Prompts of a split ask for parts of that split's combinations.

    Args:
        output_dir: directory to create.
        num_captions: captions of the stage-1 corpus, in the generator's form but with all wordings alike.
        num_train_prompts: user prompts to collect with.
        num_val_prompts: user prompts to validate with.
        num_test_prompts: user prompts to evaluate with.
        seed: the same seed gives the same files.

    Raises:
        ValueError: if a number is below 1, or there are fewer different texts than asked for.
    """
    rng = random.Random(seed)
    seen: set[str] = set()
    captions = _draw("train", num_captions, caption, rng, seen)
    write_records(output_dir / "captions.jsonl", [Caption(content_id(text), text, "toyworld") for text in captions])
    # The smaller splits choose first: short prompts run out, and training has plenty.
    counts: dict[Split, int] = {"test": num_test_prompts, "val": num_val_prompts, "train": num_train_prompts}
    for split, count in counts.items():
        prompts = _draw(split, count, user_prompt, rng, seen)
        write_records(output_dir / "prompts" / f"{split}.jsonl", [Prompt(content_id(text), text) for text in prompts])


def _draw(
    split: Split, count: int, write_text: Callable[[World, random.Random], str], rng: random.Random, seen: set[str]
) -> list[str]:
    """Write ``count`` texts about worlds of a split that are not among those seen, and add them there."""
    if count < 1:
        raise ValueError(f"the {split} split needs at least 1 text, got {count}")
    choices = worlds(split)
    texts: list[str] = []
    for _ in range(count * MAX_DRAWS):
        text = write_text(rng.choice(choices), rng)
        if text not in seen:
            seen.add(text)
            texts.append(text)
        if len(texts) == count:
            return texts
    raise ValueError(f"the {split} split has only about {len(texts)} different texts, not {count}; ask for fewer")


if __name__ == "__main__":
    auto_cli(write, as_positional=False)
