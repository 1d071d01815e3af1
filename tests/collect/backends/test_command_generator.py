"""A real program behind the generator: it works, dies, hangs, writes junk and half a video."""

import logging
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from collect.backends.command_generator import CommandGenerator
from collect.backends.video import read_video, write_video
from collect.protocols import RenderRequest

WORKER = '''
"""Copies a video for each request; a prompt may tell it to misbehave, which it does once."""
import json, os, pathlib, shutil, sys, time

video, once = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
print("loading the model", file=sys.stderr, flush=True)
print("a library greets", flush=True)
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    path, bad = pathlib.Path(request["path"]), None
    if request["prompt"] in ("die", "hang", "half", "junk", "refuse", "nothing", "short"):
        marker = once / request["prompt"]
        bad = None if marker.exists() else request["prompt"]
        marker.touch()
    if request["prompt"] == "always die":
        print("CUDA error: device-side assert", file=sys.stderr, flush=True)
        bad = "die"
    if bad == "die":
        path.write_bytes(b"half a file")
        os._exit(3)
    if bad == "hang":
        time.sleep(600)
    if bad == "half":
        path.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    elif bad == "refuse":
        print(json.dumps({"id": request["id"], "error": "unsafe prompt"}), flush=True)
        continue
    elif bad != "nothing":
        shutil.copy(video, path)
    if bad == "junk":
        print("{not json", json.dumps([1, 2]), "\\n[]\\n12\\n\\n" + json.dumps({"id": -1}), flush=True)
    (once / f"made_{request['seed']}_{os.environ.get('GPU', '')}").touch()
    print(json.dumps({"id": request["id"]}), flush=True)
'''


@pytest.fixture
def start(tmp_path: Path):
    """Builds a generator whose worker is the program above."""
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    video = tmp_path / "source.mp4"
    write_video(video, np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))
    (tmp_path / "once").mkdir()
    command = [sys.executable, "-S", str(worker), str(video), str(tmp_path / "once")]
    return lambda **changes: CommandGenerator(command, **({"start_limit": 60, "time_limit": 60} | changes))


def request(folder: Path, prompt: str, seed: int = 0) -> RenderRequest:
    return RenderRequest(prompt, seed, folder / "videos" / f"{prompt} {seed}.mp4")


def test_several_workers_make_videos_and_their_words_are_in_the_log(
    start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    generator = start(num_workers=2, environment={"GPU": "{worker}"}, num_frames=6)
    assert generator.batch_size == 2
    asked = [request(tmp_path, "a cat", seed) for seed in range(6)]
    generator.generate(asked)
    assert all(len(read_video(one.path)) == 6 for one in asked)
    assert len(list((tmp_path / "videos").iterdir())) == 6  # and nothing beside them
    assert {path.name.split("_")[2] for path in (tmp_path / "once").iterdir()} <= {"0", "1"}
    assert "loading the model" in caplog.text
    assert "a library greets" in caplog.text


@pytest.mark.parametrize("prompt", ["die", "junk"])
def test_a_program_that_dies_is_started_again_and_junk_is_passed_over(start, tmp_path: Path, prompt: str) -> None:
    generator = start()
    for one in (request(tmp_path, prompt), request(tmp_path, "a cat")):
        generator.generate([one])
        assert len(read_video(one.path)) == 6


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("always die", r"python\S* 0 ended with code 3; it said .*CUDA error: device-side assert"),
        ("half", "left no whole video of 'half'.*is not a readable video"),
        ("nothing", "left no whole video of 'nothing'.*does not exist"),
        ("refuse", "made no video of 'refuse': unsafe prompt"),
    ],
)
def test_what_goes_wrong_is_an_error_that_leaves_no_file_and_spoils_no_other(
    start, tmp_path: Path, prompt: str, message: str
) -> None:
    generator = start()
    with pytest.raises(RuntimeError, match=message):
        generator.generate([request(tmp_path, prompt)])
    assert not request(tmp_path, prompt).path.exists()
    generator.generate([request(tmp_path, "a cat")])
    assert len(read_video(request(tmp_path, "a cat").path)) == 6


def test_a_program_that_hangs_is_ended_and_another_goes_on(start, tmp_path: Path) -> None:
    generator = start(time_limit=1.5)
    with pytest.raises(TimeoutError, match=r"was ended: no answer within 1\.5 seconds"):
        generator.generate([request(tmp_path, "hang")])
    generator.time_limit = 60
    generator.generate([request(tmp_path, "hang")])  # it does so once
    assert len(read_video(request(tmp_path, "hang").path)) == 6


def test_a_video_of_another_length_is_refused(start, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="left a video of 6 frames of 'a cat' where num_frames is 8"):
        start(num_frames=8).generate([request(tmp_path, "a cat")])
    assert not list((tmp_path / "videos").iterdir())


def test_a_program_that_cannot_be_used_is_named_when_the_generator_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no_such_program cannot be used"):
        CommandGenerator(["no_such_program"])
    with pytest.raises(ValueError, match=r"ended with code 1; it said .*ModuleNotFoundError"):
        CommandGenerator([sys.executable, "-c", "import no_such_module"])
    with pytest.raises(ValueError, match=r"was ended: no answer within 0\.5 seconds"):
        CommandGenerator([sys.executable, "-c", "import time; time.sleep(600)"], start_limit=0.5)
    with pytest.raises(ValueError, match="num_workers must be at least 1"):
        CommandGenerator(["true"], num_workers=0)
    with pytest.raises(FileNotFoundError, match="weights does not exist"):
        CommandGenerator(["true"], model=[tmp_path / "weights"])


def test_another_program_or_checkpoint_is_another_model(start, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"1")
    before = start(model=[weights]).fingerprint
    assert start(model=[weights], num_workers=2, time_limit=7).fingerprint == before
    (weights / "model.safetensors").write_bytes(b"2")
    after = start(model=[weights]).fingerprint
    (tmp_path / "worker.py").write_text(WORKER + "# changed")
    assert len({before, after, start(model=[weights]).fingerprint}) == 3


def test_a_program_ends_with_its_generator(start, tmp_path: Path) -> None:
    generator = start()
    process = generator._workers[0]._process
    del generator
    assert process.wait(timeout=60) is not None


LAVIE = '''
"""The functions and files of LaVie's base/pipelines/sample.py, with nothing behind them."""
import os, sys
import imageio
from fake_models import AutoencoderKL, CLIPTextModel, frames

def find_model(path):
    print("loading", path)
    return {}

def get_models(args, path):
    assert args.model == "UNet"
    return object()

def main(args):
    get_models(args, args.pretrained_path), find_model("lavie_base.pt")
    AutoencoderKL.from_pretrained("vae"), CLIPTextModel.from_pretrained("text_encoder")
    os.makedirs(args.output_folder, exist_ok=True)
    for prompt in args.text_prompt:
        video = frames(args.video_length, args.image_size, args.seed)
        imageio.mimwrite(args.output_folder + prompt.replace(" ", "_") + ".mp4", video, fps=8, quality=9)
'''
FAKE_MODELS = """
import numpy as np

class Loaded:
    calls = 0
    @classmethod
    def from_pretrained(cls, name):
        cls.calls += 1
        assert cls.calls == 1, "loaded twice"
        return cls()

class AutoencoderKL(Loaded):
    pass

class CLIPTextModel(Loaded):
    pass

def frames(num, size, seed):
    return [np.full((*size, 3), seed % 256, np.uint8) for _ in range(num)]
"""
OPEN_SORA = '''
"""The functions of Open-Sora-Plan's opensora/utils/sample_utils.py, with nothing behind them."""
import argparse, os
import imageio, numpy as np

def get_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_path")
    parser.add_argument("--num_frames", type=int)
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fps", type=int)
    parser.add_argument("--text_prompt", nargs="+")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--save_img_path")
    return parser.parse_args()

def prepare_pipeline(args, dtype, device):
    return args.model_path

def run_model_and_save_samples(args, pipeline):
    assert pipeline == "weights"
    video = [np.full((args.height, args.width, 3), args.seed % 256, np.uint8)] * args.num_frames
    for index, prompt in enumerate(args.text_prompt):
        imageio.mimwrite(os.path.join(args.save_img_path, f"Euler_{index}_gs7.5_s100.mp4"), video, fps=args.fps)
    imageio.mimwrite(os.path.join(args.save_img_path, "Euler_gs7.5_s100.mp4"), video, fps=args.fps)
    print("save path", args.save_img_path)
'''
PAGE = Path(__file__).parents[3] / "docs" / "video_model.md"


def documented(begin: str) -> str:
    """The worker of the docs that begins so."""
    (found,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if begin in block]
    return found


def render_twice(generator: CommandGenerator, folder: Path) -> None:
    long = "a cat that walks / over a hill " * 20  # no file could have this name
    asked = [RenderRequest(long, seed, folder / f"{seed}.mp4") for seed in (20, 200)]
    generator.generate(asked)
    for one in asked:
        video = read_video(one.path)
        assert video.shape == (16, 32, 48, 3)
        assert abs(float(video.mean()) - one.seed) < 4  # the stand-ins draw their seed


def test_the_worker_for_lavie_in_the_docs_works(tmp_path: Path) -> None:
    base = tmp_path / "base"
    for name, text in {
        "pipelines/sample.py": LAVIE,
        "pipelines/fake_models.py": FAKE_MODELS,
        "configs/sample.yaml": "output_folder: ../res/\npretrained_path: ../models\nmodel: UNet\nvideo_length: 16\n"
        "image_size: [32, 48]\nseed: 400\ntext_prompt: [a teddy bear]\n",
        "worker.py": documented("LaVie as a worker"),
    }.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(text)
    render_twice(CommandGenerator([sys.executable, str(base / "worker.py"), str(base)], num_frames=16), tmp_path)


def test_the_worker_for_open_sora_plan_in_the_docs_works(tmp_path: Path) -> None:
    for name, text in {
        "opensora/utils/sample_utils.py": OPEN_SORA,
        "worker.py": documented("Open-Sora-Plan as a worker"),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    arguments = ["--model_path", "weights", "--num_frames", "16", "--height", "32", "--width", "48", "--fps", "18"]
    render_twice(CommandGenerator([sys.executable, "worker.py", *arguments], tmp_path, num_frames=16), tmp_path / "out")
