"""Figures that RAPO++ reports (https://arxiv.org/abs/2510.20206), as its tables print them.

They are the paper's: made with its rewriters, its videos and its run of each evaluator. What of a benchmark is not in
those tables is left out.
"""

from collections.abc import Mapping, Sequence

Scores = Mapping[str, Mapping[str, float]]


def _table(source: str, metrics: Sequence[str], rows: Mapping[str, Sequence[float]]) -> Scores:
    return {f"{method} ({source})": dict(zip(metrics, values, strict=True)) for method, values in rows.items()}


RAPO_VBENCH: Scores = _table(
    "RAPO++ paper, Table 7",
    (
        "total",
        "temporal flickering",
        "imaging quality",
        "human action",
        "object class",
        "multiple objects",
        "spatial relationship",
    ),
    {
        "LaVie": (80.89, 96.62, 69.00, 95.80, 92.09, 37.71, 37.27),
        "LaVie + RAPO": (82.38, 96.86, 71.40, 96.80, 96.91, 64.86, 59.15),
        "LaVie + RAPO++": (82.65, 97.46, 73.48, 99.20, 98.78, 71.89, 64.76),
        "Latte": (77.03, 97.10, 63.38, 88.40, 83.86, 29.55, 40.63),
        "Latte + RAPO": (79.97, 98.17, 66.72, 95.20, 96.47, 52.78, 41.31),
        "Latte + RAPO++": (80.75, 97.93, 67.84, 97.20, 93.82, 55.38, 46.87),
    },
)
RAPO_EVALCRAFTER: Scores = _table(
    "RAPO++ paper, Table 6",
    ("motion quality", "text-video alignment", "visual quality", "temporal consistency"),
    {
        "LaVie": (53.19, 69.60, 64.81, 60.87),
        "LaVie + RAPO": (54.14, 74.38, 66.62, 61.29),
        "LaVie + RAPO++": (54.75, 75.62, 66.95, 66.80),
        "Latte": (50.03, 55.49, 57.65, 53.94),
        "Latte + RAPO": (51.73, 60.86, 59.24, 55.26),
        "Latte + RAPO++": (51.87, 61.92, 60.25, 55.79),
    },
)
RAPO_T2VCOMPBENCH: Scores = _table(
    "RAPO++ paper, Table 6",
    ("consistent attribute", "dynamic attribute", "action binding", "object interactions"),
    {
        "LaVie": (0.620, 0.232, 0.483, 0.760),
        "LaVie + RAPO": (0.692, 0.267, 0.635, 0.839),
        "LaVie + RAPO++": (0.742, 0.294, 0.632, 0.849),
        "Latte": (0.633, 0.227, 0.476, 0.792),
        "Latte + RAPO": (0.706, 0.258, 0.591, 0.847),
        "Latte + RAPO++": (0.727, 0.283, 0.595, 0.856),
    },
)
RAPO_PHYGENBENCH: Scores = _table(
    "RAPO++ paper, Table 8",
    ("PC", "SA"),
    {
        "HunyuanVideo": (0.38, 0.24),
        "HunyuanVideo, round 4": (0.57, 0.42),
        "CogVideoX-5B": (0.34, 0.28),
        "CogVideoX-5B, round 4": (0.53, 0.39),
        "Wan2.1": (0.40, 0.32),
        "Wan2.1, round 4": (0.50, 0.45),
    },
)
RAPO_VIDEOPHY: Scores = _table(
    "RAPO++ paper, Table 9",
    (
        "PC, solid-solid",
        "PC, solid-fluid",
        "PC, fluid-fluid",
        "SA, solid-solid",
        "SA, solid-fluid",
        "SA, fluid-fluid",
    ),
    {
        "HunyuanVideo": (0.28, 0.35, 0.42, 0.41, 0.65, 0.51),
        "HunyuanVideo, round 4": (0.40, 0.52, 0.61, 0.65, 0.78, 0.71),
        "CogVideoX-5B": (0.27, 0.38, 0.43, 0.54, 0.67, 0.54),
        "CogVideoX-5B, round 4": (0.39, 0.54, 0.62, 0.60, 0.71, 0.65),
        "Wan2.1": (0.26, 0.31, 0.30, 0.50, 0.62, 0.47),
        "Wan2.1, round 4": (0.41, 0.49, 0.53, 0.64, 0.75, 0.67),
    },
)
