"""What judges a video: scores to rank by and critiques in words."""

from collect.verifiers.flow import FlowVerifier
from collect.verifiers.toyworld import ToyWorldVerifier

__all__ = ["FlowVerifier", "ToyWorldVerifier"]
