"""Public benchmarks: their prompt files, the video files their evaluators read, and the scores those write."""

from collect.suites.composition import FETV, EvalCrafter, T2VCompBench
from collect.suites.physics import PhyGenBench, PhysicsIQ, VideoPhy, VideoPhy2
from collect.suites.vbench import VBench, VBench2

__all__ = [
    "FETV",
    "EvalCrafter",
    "PhyGenBench",
    "PhysicsIQ",
    "T2VCompBench",
    "VBench",
    "VBench2",
    "VideoPhy",
    "VideoPhy2",
]
