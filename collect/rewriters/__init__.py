"""Raw prompt to better prompt: in one pass, by RAPO, by critique, by choice."""

from collect.rewriters.critique import CritiqueRewriter
from collect.rewriters.discriminator import Discriminator
from collect.rewriters.enhancer import EnhancerRewriter
from collect.rewriters.lm import LMRewriter
from collect.rewriters.rapo import RAPORewriter
from collect.rewriters.rewording import RewordingRewriter

__all__ = [
    "CritiqueRewriter",
    "Discriminator",
    "EnhancerRewriter",
    "LMRewriter",
    "RAPORewriter",
    "RewordingRewriter",
]
