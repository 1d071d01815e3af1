"""The toy world: captions, prompts, renderer and readers of a closed world small enough to train on a laptop."""

from data_modules.toyworld.critique import ALL_RIGHT, critique
from data_modules.toyworld.grammar import (
    ATTRIBUTES,
    CAPTION_SHARES,
    EVEN_SHARES,
    WORDINGS,
    World,
    all_worlds,
    asked,
    caption,
    choose_wording,
    generic_prompt,
    mentions,
    split_of,
    user_prompt,
    worlds,
    write_caption,
    write_user_prompt,
)
from data_modules.toyworld.read import Reading, read_by_colour, read_by_template
from data_modules.toyworld.render import FPS, NUM_FRAMES, SIZE, render

__all__ = [
    "ALL_RIGHT",
    "ATTRIBUTES",
    "CAPTION_SHARES",
    "EVEN_SHARES",
    "FPS",
    "NUM_FRAMES",
    "SIZE",
    "WORDINGS",
    "Reading",
    "World",
    "all_worlds",
    "asked",
    "caption",
    "choose_wording",
    "critique",
    "generic_prompt",
    "mentions",
    "read_by_colour",
    "read_by_template",
    "render",
    "split_of",
    "user_prompt",
    "worlds",
    "write_caption",
    "write_user_prompt",
]
