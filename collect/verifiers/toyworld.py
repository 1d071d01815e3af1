"""Judging toy-world videos by reading them back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from collect.backends.video import read_video
from collect.protocols import Verdict
from data_modules.records import Prompt
from data_modules.toyworld import ATTRIBUTES, asked, critique, read_by_colour, read_by_template

READERS = {"colour": read_by_colour, "template": read_by_template}


class ToyWorldVerifier:
    """Compares what a video shows with what its raw prompt asked for.

    Scores ``alignment``, the share of the attributes asked for that the video shows, and ``clarity``, the share of
    frames that show exactly one clean object.

    Args:
        reader: how videos are read; ``colour`` and ``template`` are independent of each other, so that what one
            rewards the other can judge.
    """

    name = "toyworld"
    ranked = True

    def __init__(self, reader: Literal["colour", "template"] = "colour") -> None:
        if reader not in READERS:
            raise ValueError(f"reader must be one of {', '.join(READERS)}, got {reader!r}")
        self.reader = reader

    def judge(self, prompts: Sequence[Prompt], videos: Sequence[Path]) -> list[Verdict]:
        """Judge each video against its raw prompt.

        Raises:
            ValueError: before any video is read, if a prompt asks for nothing in the toy world.
            FileNotFoundError: if a video is missing.
        """
        wanted = [asked(prompt.prompt) for prompt in prompts]
        for prompt, attributes in zip(prompts, wanted, strict=True):
            if not attributes:
                raise ValueError(
                    f"prompt {prompt.id} asks for nothing in the toy world: {prompt.prompt!r}; "
                    f"judge it with another verifier, or say one of {', '.join(ATTRIBUTES)} in the world's words"
                )
        verdicts = []
        for attributes, video in zip(wanted, videos, strict=True):
            reading = READERS[self.reader](read_video(video))
            right = sum(reading.values[name] == value for name, value in attributes.items())
            scores = {"alignment": right / len(attributes), "clarity": reading.clarity}
            verdicts.append(Verdict(scores, critique(attributes, reading)))
        return verdicts
