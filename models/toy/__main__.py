"""Make and store the toy weights: ``python -m models.toy {lm,half,generator}``."""

from jsonargparse import auto_cli

from models.toy.language_model import half, lm
from models.toy.video_pipeline import generator

if __name__ == "__main__":
    auto_cli({"lm": lm, "half": half, "generator": generator}, as_positional=False)
