"""What judges a video: scores to rank by and critiques in words."""

from collect.verifiers.callable import CallableVerifier
from collect.verifiers.consistency import ConsistencyVerifier
from collect.verifiers.flow import FlowVerifier
from collect.verifiers.toyworld import ToyWorldVerifier
from collect.verifiers.vlm import VLMVerifier
from collect.verifiers.vlm_endpoint import VLMEndpointVerifier

__all__ = [
    "CallableVerifier",
    "ConsistencyVerifier",
    "FlowVerifier",
    "ToyWorldVerifier",
    "VLMEndpointVerifier",
    "VLMVerifier",
]
