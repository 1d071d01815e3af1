"""Real pipelines at toy size, and the files they leave."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from collect.backends.diffusers_generator import DiffusersGenerator
from collect.backends.video import read_video, video_fps, write_video
from collect.protocols import RenderRequest

PROMPTS = ["a red ball", "the blue box is falling on a hill at night", "green"]


@pytest.fixture(params=["latte", "wan"])
def generator(request: pytest.FixtureRequest) -> Callable[..., DiffusersGenerator]:
    """Builds a generator on a tiny Latte, then on a tiny Wan."""
    folder = request.getfixturevalue(request.param)
    num_frames = {"latte": 4, "wan": 5}[request.param]

    def build(**changes) -> DiffusersGenerator:
        settings = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 16, "width": 16, "batch_size": 3}
        return DiffusersGenerator(str(folder), num_frames=num_frames, **(settings | changes))

    return build


def requests(folder: Path) -> list[RenderRequest]:
    return [RenderRequest(text, seed, folder / f"{seed}.mp4") for seed, text in enumerate([*PROMPTS, PROMPTS[0]])]


def test_a_video_depends_on_prompt_and_seed_but_not_on_what_else_is_rendered(
    generator: Callable[..., DiffusersGenerator], tmp_path: Path
) -> None:
    model = generator()
    model.generate(requests(tmp_path))
    together = [request.path.read_bytes() for request in requests(tmp_path)]
    assert len(set(together)) == len(together)  # the first and the last differ by seed alone
    model.generate(requests(tmp_path)[::-1])
    assert [request.path.read_bytes() for request in requests(tmp_path)] == together
    for request in requests(tmp_path)[:2]:
        model.generate([request])
    assert [request.path.read_bytes() for request in requests(tmp_path)] == together


def test_files_have_the_frames_size_and_speed_asked_for(
    generator: Callable[..., DiffusersGenerator], tmp_path: Path
) -> None:
    model = generator(enlarge=2, fps=6)
    model.generate(requests(tmp_path)[:1])
    (path,) = tmp_path.iterdir()  # and nothing half-written beside it
    assert read_video(path).shape == (model.shape[0], 32, 32, 3)
    assert video_fps(path) == 6


def test_the_fingerprint_names_weights_and_settings_but_not_the_batch(
    generator: Callable[..., DiffusersGenerator],
) -> None:
    assert generator().fingerprint == generator(batch_size=2).fingerprint
    assert generator().fingerprint != generator(guidance_scale=2.0).fingerprint
    assert generator().fingerprint != generator(enlarge=2).fingerprint


def test_latte_never_renders_a_prompt_alone(latte: Path) -> None:
    settings = {"num_inference_steps": 1, "guidance_scale": 1.0, "num_frames": 4, "height": 16, "width": 16}
    assert DiffusersGenerator(str(latte), **settings, batch_size=1).batch_size == 2


def test_settings_the_pipeline_does_not_take_are_refused(generator: Callable[..., DiffusersGenerator]) -> None:
    with pytest.raises(ValueError, match="takes no flow_shift; it takes"):
        generator(call_kwargs={"flow_shift": 3})
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        generator(batch_size=0)


def test_a_number_of_frames_the_pipeline_rounds_is_refused(wan: Path, tmp_path: Path) -> None:
    model = DiffusersGenerator(str(wan), 1, 1.0, num_frames=6, height=16, width=16, batch_size=1)
    with pytest.raises(ValueError, match=r"made videos of shape \(5, 16, 16, 3\) where \(6, 16, 16, 3\)"):
        model.generate(requests(tmp_path)[:1])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("pretrained", ["./nowhere", "nowhere", "a/b/c"])
def test_a_missing_pipeline_is_named(pretrained: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"is no diffusers pipeline: it has no model_index\.json"):
        DiffusersGenerator(pretrained, 1, 1.0, 4, 16, 16)


def test_pixels_survive_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    write_video(tmp_path / "video.mp4", video, enlarge=8)
    shrunk = read_video(tmp_path / "video.mp4")[:, 4::8, 4::8].astype(int)
    assert np.abs(shrunk - video).mean() < 3  # of 255


def test_a_truncated_video_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    write_video(path, np.zeros((4, 16, 16, 3), np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for read in (read_video, video_fps):
        with pytest.raises(ValueError, match="is not a readable video; was it cut short"):
            read(path)


@pytest.mark.parametrize("shape", [(4, 16, 16), (4, 3, 16, 16), (0, 16, 16, 3)])
def test_what_is_no_video_is_not_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a video must be uint8 of shape"):
        write_video(tmp_path / "video.mp4", np.zeros(shape, np.uint8))


def test_odd_sizes_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be even, got 15 x 16; set enlarge to 2"):
        write_video(tmp_path / "video.mp4", np.zeros((4, 15, 16, 3), np.uint8))


def test_a_video_that_cannot_be_written_is_an_error_and_the_others_are_there(latte: Path, tmp_path: Path) -> None:
    model = DiffusersGenerator(str(latte), 1, 1.0, num_frames=4, height=16, width=16, batch_size=3)
    asked = requests(tmp_path)[:3]
    asked[1].path.mkdir()  # in the way
    with pytest.raises(OSError, match=asked[1].path.name):
        model.generate(asked)
    assert all(read_video(request.path).shape == model.shape for request in (asked[0], asked[2]))
