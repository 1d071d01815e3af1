"""The phenomenon the project exists for, on the toy world: a generator draws its own captions, not people's prompts.

``make toy-gap`` renders every held-out combination once from its full caption and once from a short user prompt,
reads the videos back, and prints the share of asked attributes that is right, with 95 % bootstrap intervals over
combinations. Each text is scored on the attributes it asks for.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console
from scipy.stats import bootstrap

from collect.backends.diffusers_generator import DiffusersGenerator
from collect.backends.video import read_video
from collect.protocols import RenderRequest
from data_modules.toyworld import (
    CAPTION_SHARES,
    Reading,
    asked,
    caption,
    read_by_colour,
    read_by_template,
    user_prompt,
    worlds,
)

pytestmark = pytest.mark.bench
SETTINGS = yaml.safe_load(Path("configs/toy/generator.yaml").read_text())["init_args"]


def scores(texts: list[str], directory: Path, read: Callable[..., Reading]) -> list[float]:
    """Share of the asked attributes that each text's video shows."""
    requests = [RenderRequest(text, seed, directory / f"{seed}.mp4") for seed, text in enumerate(texts)]
    if not requests[0].path.exists():
        DiffusersGenerator(**SETTINGS).generate(requests)
    shares = []
    for text, request in zip(texts, requests, strict=True):
        shown = read(read_video(request.path)).values
        shares.append(float(np.mean([shown[name] == value for name, value in asked(text).items()])))
    return shares


def test_captions_are_drawn_better_than_user_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = worlds("test")
    texts = {
        "full captions": [caption(world, random.Random(seed), CAPTION_SHARES) for seed, world in enumerate(shown)],
        "user prompts": [user_prompt(world, random.Random(seed)) for seed, world in enumerate(shown)],
    }
    for read in (read_by_colour, read_by_template):
        means = {}
        for name, prompts in texts.items():
            directory = tmp_path / name
            directory.mkdir(exist_ok=True)
            values = scores(prompts, directory, read)
            interval = bootstrap((values,), np.mean, rng=0).confidence_interval
            means[name] = float(np.mean(values))
            row = {"texts": name, "reader": read.__name__, "videos": len(values), "score": round(means[name], 3)}
            with capsys.disabled():
                Console().print_json(
                    json.dumps({**row, "interval": [round(interval.low, 3), round(interval.high, 3)]}), indent=None
                )
        assert means["full captions"] - means["user prompts"] >= 0.15
