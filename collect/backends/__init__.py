"""What implements a protocol: language models, video generators, encoders, video files."""

from collect.backends.command_generator import CommandGenerator
from collect.backends.diffusers_generator import DiffusersGenerator
from collect.backends.openai_lm import OpenAILM
from collect.backends.transformers_lm import TransformersLM

__all__ = ["CommandGenerator", "DiffusersGenerator", "OpenAILM", "TransformersLM"]
