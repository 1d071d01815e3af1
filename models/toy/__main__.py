"""Make and store the toy weights: ``python -m models.toy {lm,half,generator,half_generator}``."""

from jsonargparse import auto_cli

from models.toy.language_model import half, lm
from models.toy.video_pipeline import generator, half_generator

if __name__ == "__main__":
    auto_cli({"lm": lm, "half": half, "generator": generator, "half_generator": half_generator}, as_positional=False)
