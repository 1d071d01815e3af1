"""What a user brings for a video model: captions in its style, and prompts; in the files that the stages read."""

from math import ceil
from pathlib import Path

from collect.console import PlainConsole
from collect.prompts import read_captions, read_prompts
from data_modules.records import Prompt, content_id, write_records

SPLITS = ("train", "val", "test")
MIN_PROMPTS = 10  # so that no split is empty


def data(captions: Path, prompts: Path, output: Path, val_share: float = 0.1, test_share: float = 0.1) -> None:
    """Write captions and prompts as the stages of a video model read them.

    Args:
        captions: texts in the style of the model's training captions: ``.jsonl`` of caption records, ``.txt`` with
            one a line, or ``.csv`` with a column ``caption``; one that is there twice counts once.
        prompts: what users type: ``.jsonl`` of prompt records, ``.txt`` with one a line, or ``.csv``.
        output: folder of ``captions.jsonl`` and ``prompts/{train,val,test}.jsonl``.
        val_share: of the prompts, for choosing.
        test_share: of the prompts, held out for the evaluation. Which they are is decided by their text, so that more
            prompts of one kind do not move others into another split at random.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a share is none, or there are too few captions or prompts.
    """
    if not (val_share > 0 and test_share > 0 and val_share + test_share < 1):
        raise ValueError(
            f"val_share and test_share must be above 0 and below 1 together, got {val_share}, {test_share}."
        )
    corpus = list({caption.caption: caption for caption in read_captions(captions)}.values())
    splits = split(read_prompts(prompts), val_share, test_share)
    (output / "prompts").mkdir(parents=True, exist_ok=True)
    for name, asked in splits.items():
        write_records(output / "prompts" / f"{name}.jsonl", asked)
    write_records(output / "captions.jsonl", corpus)  # last: make takes it for the end
    counts = ", ".join(f"{len(asked)} {name}" for name, asked in splits.items())
    PlainConsole().print(f"{len(corpus)} captions and {counts} prompts in {output}")


def split(prompts: list[Prompt], val_share: float, test_share: float) -> dict[str, list[Prompt]]:
    """Share out prompts by a hash of their text; each share is rounded up.

    Raises:
        ValueError: if there are too few.
    """
    if len(prompts) < MIN_PROMPTS:
        raise ValueError(f"{len(prompts)} prompts are too few for three splits; give at least {MIN_PROMPTS}.")
    ordered = sorted(prompts, key=lambda prompt: content_id("split", prompt.prompt))
    num_test, num_val = (ceil(share * len(ordered)) for share in (test_share, val_share))
    parts = ordered[num_test + num_val :], ordered[num_test : num_test + num_val], ordered[:num_test]
    place = {prompt.id: index for index, prompt in enumerate(prompts)}
    return {name: sorted(part, key=lambda prompt: place[prompt.id]) for name, part in zip(SPLITS, parts, strict=True)}
