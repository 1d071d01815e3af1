"""Every family of video models at its smallest: what the table of docs/video_model.md says of each is so.

``python -m pytest -m "slow or not slow" tests/collect/backends/test_video_models.py -s`` prints the table's rows.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from collect.backends.diffusers_generator import TOLERANCE, DiffusersGenerator
from collect.backends.pipeline_loading import Component
from collect.backends.pipeline_memory import Memory
from collect.backends.token_budget import TokenBudget, budget_of
from collect.protocols import RenderRequest
from tests.collect.backends import tiny_pipelines

PAGE = Path(__file__).parents[3] / "docs" / "video_model.md"
QUICK = ("sana",)  # in the default run: it says frames, keeps a float32 autoencoder and is small
SETTINGS: dict[str, dict[str, Any]] = {
    "hunyuan15": {"memory": Memory(vae_slicing=True)},
    "ltx": {"height": 64, "width": 64},
    "mochi": {"num_frames": 7},
    "sana": {"call_kwargs": {"use_resolution_binning": False, "complex_human_instruction": None}},
}
PROMPTS = ["a cat", "a red ball falling on the hill at the water and the box " * 3, "a blue box"]


def build(folder: Path, name: str, **changes: Any) -> DiffusersGenerator:
    settings = {"num_frames": 9, "height": 32, "width": 32, "batch_size": 3} | SETTINGS.get(name, {}) | changes
    return DiffusersGenerator(str(folder), 2, 3.0, **settings)


def frames(generator: DiffusersGenerator, prompts: list[str]) -> NDArray[np.float32]:
    """Videos as the model makes them, each with the seed of its place."""
    videos, _ = generator._make([RenderRequest(prompt, seed, Path()) for seed, prompt in enumerate(prompts)])
    return videos


def with_tokens(budget: TokenBudget, last: str, extra: int = 0) -> str:
    """A text that fills the budget, and so many words more; the last of them is given."""
    words = budget.max_tokens + extra - budget.count(["a"])[0] + 1
    return " ".join(["a"] * (words - 1) + [last])


def rounds_frames(folder: Path, name: str) -> str:
    """What number of frames the pipeline makes of one too many."""
    asked = SETTINGS.get(name, {}).get("num_frames", 9) + 1
    with pytest.raises(ValueError, match="made videos of shape") as refused:
        build(folder, name, num_frames=asked, batch_size=1)
    (made,) = re.findall(r"made videos of shape \((\d+),", str(refused.value))
    return f"{asked} frames become {made}"


@pytest.mark.filterwarnings("ignore:In CPU autocast, but the target dtype is not supported")  # Mochi's, in float32
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in tiny_pipelines.PIPELINES]
)
def test_the_table_of_the_docs_is_so(name: str, tmp_path: Path) -> None:
    folder = tiny_pipelines.save(name, tmp_path / name)
    generator = build(folder, name)
    class_name = type(generator.pipeline).__name__
    alone = np.concatenate([generator._make([RenderRequest(p, s, Path())])[0] for s, p in enumerate(PROMPTS)])
    assert np.isfinite(alone).all()
    difference = float(np.abs(alone - frames(generator, PROMPTS)).max())
    settings = {"pretrained": str(folder), **SETTINGS.get(name, {})}
    budget = budget_of({"class_path": "collect.backends.DiffusersGenerator", "init_args": settings})
    assert budget is not None
    full, other = with_tokens(budget, "ball"), with_tokens(budget, "water")
    assert budget.count([full, other]) == [budget.max_tokens] * 2
    assert np.abs(frames(generator, [full]) - frames(generator, [other])).max() > 0
    over = [with_tokens(budget, last, extra=8) for last in ("ball", "water")]
    assert np.abs(frames(generator, over[:1]) - frames(generator, over[1:])).max() == 0
    batch = "rounding" if difference < TOLERANCE else "rendered alone"
    assert generator.batch_size == (3 if batch == "rounding" else 1)
    row = [f"`{class_name}`", batch, rounds_frames(folder, name), str(budget.max_tokens), str(generator.fps)]
    assert f"| {' | '.join(row)} |" in PAGE.read_text()


@pytest.mark.slow
def test_an_image_model_and_a_motion_adapter_make_a_video_model(tmp_path: Path) -> None:
    folder = tiny_pipelines.image_model(tmp_path)
    generator = build(
        folder / "image",
        "animatediff",
        num_frames=4,
        pipeline_class="AnimateDiffPipeline",
        components={"motion_adapter": Component("MotionAdapter", str(folder / "motion"))},
        negative_prompt="a red box",
        height=16,
        width=16,
    )
    together = frames(generator, PROMPTS)
    alone = frames(generator, PROMPTS[:1])
    assert np.abs(alone[0] - together[0]).max() < TOLERANCE
