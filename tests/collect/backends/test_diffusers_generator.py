"""Real pipelines at toy size, and the files they leave."""

import shutil
import subprocess
import weakref
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from diffusers import ModularPipeline, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from peft import LoraConfig, get_peft_model_state_dict

from collect.backends.diffusers_generator import DiffusersGenerator
from collect.backends.pipeline_loading import Adapter
from collect.backends.pipeline_memory import Memory
from collect.backends.video import Sound, read_video, video_fps, write_video
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
    model = generator(fill_batches=True)
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


def test_no_row_is_rendered_that_was_not_asked_for(
    generator: Callable[..., DiffusersGenerator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = generator()
    rows = []
    call = type(model.pipeline).__call__
    monkeypatch.setattr(
        type(model.pipeline), "__call__", lambda *a, **k: rows.append(len(k["prompt"])) or call(*a, **k)
    )
    model.generate(requests(tmp_path))  # four, three at once
    assert rows == [3, model.least]


def test_memory_that_runs_out_halves_the_batch_down_to_one(wan: Path, tmp_path: Path) -> None:
    class Card:
        """Holds two videos, the dead call's among them."""

        def __init__(self, transformer: torch.nn.Module) -> None:
            self.calls: list[int] = []
            self.held: list[weakref.ref] = []
            transformer.register_forward_pre_hook(self.allocate, with_kwargs=True)

        def allocate(self, _: torch.nn.Module, args: tuple, kwargs: dict) -> None:
            latents = kwargs["hidden_states"]
            self.calls.append(len(latents))
            assert not any(ref() is not None for ref in self.held), "the dead call's tensors are still there"
            if len(latents) > 2:
                self.held.append(weakref.ref(latents))
                raise torch.OutOfMemoryError("CUDA out of memory.")

    cards = []
    settings = {"num_frames": 5, "height": 16, "width": 16, "batch_size": 7}
    model = DiffusersGenerator(str(wan), 1, 1.0, **settings, prepare=lambda p: cards.append(Card(p.transformer)))
    assert cards[0].calls[:3] == [7, 3, 1]
    assert model.batch_size == 1
    model.generate(requests(tmp_path)[:2])
    assert len(list(tmp_path.glob("*.mp4"))) == 2


def test_a_card_that_holds_no_video_at_all_is_told_of_before_anything_is_rendered(wan: Path) -> None:
    def full(*_, **__) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def fill(pipeline) -> None:
        pipeline.vae.decode = full

    with pytest.raises(ValueError, match=r"one of 5 frames of 16 x 16 needs more memory than cpu has.*memory\.offload"):
        DiffusersGenerator(str(wan), 50, 1.0, num_frames=5, height=16, width=16, batch_size=4, prepare=fill)


def test_numbers_that_are_not_finite_are_no_black_video(wan: Path) -> None:
    def overflow(pipeline) -> None:
        pipeline.vae.decoder.conv_out.weight.data.fill_(float("nan"))

    with pytest.raises(ValueError, match="made numbers that are not finite"):
        DiffusersGenerator(str(wan), 50, 1.0, num_frames=5, height=16, width=16, prepare=overflow)


def test_the_vae_of_wan_keeps_float32_unless_told_otherwise(wan: Path) -> None:
    settings = {"num_frames": 5, "height": 16, "width": 16}
    pipeline = DiffusersGenerator(str(wan), 1, 1.0, **settings, dtype="bfloat16").pipeline
    assert (pipeline.vae.dtype, pipeline.transformer.dtype) == (torch.float32, torch.bfloat16)
    told = {"vae": "bfloat16", "default": "float32"}
    pipeline = DiffusersGenerator(str(wan), 1, 1.0, **settings, dtype=told).pipeline
    assert (pipeline.vae.dtype, pipeline.transformer.dtype) == (torch.bfloat16, torch.float32)


def test_scheduler_and_adapters_change_what_is_drawn(wan: Path, tmp_path: Path) -> None:
    settings = {"num_inference_steps": 2, "guidance_scale": 1.0, "num_frames": 5, "height": 16, "width": 16}
    plain = DiffusersGenerator(str(wan), **settings)
    shifted = DiffusersGenerator(str(wan), **settings, scheduler={"shift": 8.0})
    assert plain.pipeline.scheduler.config.shift == 3.0
    assert shifted.pipeline.scheduler.config.shift == 8.0
    swapped = {"class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    unipc = DiffusersGenerator(str(wan), **settings, scheduler=swapped)
    assert isinstance(unipc.pipeline.scheduler, UniPCMultistepScheduler)
    lora = tmp_path / "lora"
    plain.pipeline.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    weights = get_peft_model_state_dict(plain.pipeline.transformer)
    WanPipeline.save_lora_weights(lora, transformer_lora_layers=weights)
    adapted = DiffusersGenerator(str(wan), **settings, loras=[Adapter(str(lora), scale=0.5)])
    plain = DiffusersGenerator(str(wan), **settings)
    made = []
    for index, model in enumerate((plain, shifted, unipc, adapted)):
        request = RenderRequest("a red ball", 0, tmp_path / f"{index}.mp4")
        model.generate([request])
        made.append((model.fingerprint, request.path.read_bytes()))
    for index in range(2):
        assert len({row[index] for row in made}) == 4
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler takes no flow_shift; it takes"):
        DiffusersGenerator(str(wan), **settings, scheduler={"flow_shift": 8.0})


def test_where_and_in_which_pieces_is_not_what(wan: Path) -> None:
    settings = {"num_inference_steps": 1, "guidance_scale": 1.0, "num_frames": 5, "height": 16, "width": 16}
    plain = DiffusersGenerator(str(wan), **settings).fingerprint
    assert DiffusersGenerator(str(wan), **settings, memory=Memory(vae_slicing=True)).fingerprint == plain
    assert DiffusersGenerator(str(wan), **settings, memory=Memory(vae_tiling=True)).fingerprint != plain
    layerwise = DiffusersGenerator(str(wan), **settings, memory=Memory(layerwise="float8_e4m3fn"))
    assert layerwise.fingerprint != plain
    assert torch.float8_e4m3fn in {weight.dtype for weight in layerwise.pipeline.transformer.parameters()}
    with pytest.raises(ValueError, match="offload is model but device is cpu"):
        DiffusersGenerator(str(wan), **settings, memory=Memory(offload="model"))


def test_the_fingerprint_sees_every_file_of_the_model_and_none_beside_it(wan: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(wan, tmp_path / "wan")
    settings = {"num_inference_steps": 1, "guidance_scale": 1.0, "num_frames": 5, "height": 16, "width": 16}
    before = DiffusersGenerator(str(folder), **settings).fingerprint
    (folder / "notes.json").write_text("{}")
    assert DiffusersGenerator(str(folder), **settings).fingerprint == before
    (folder / "tokenizer" / "chat_template.jinja").write_text("{{ messages }}")
    assert DiffusersGenerator(str(folder), **settings).fingerprint != before


def test_a_modular_pipeline_makes_the_same_videos(wan: Path, tmp_path: Path) -> None:
    modular = ModularPipeline.from_pretrained(str(wan))
    modular.load_components()
    modular.save_pretrained(str(tmp_path / "modular"), overwrite_modular_index=True)
    settings = {"num_inference_steps": 2, "guidance_scale": 3.0, "num_frames": 5, "height": 16, "width": 16}
    made = []
    for folder in (wan, tmp_path / "modular"):
        model = DiffusersGenerator(str(folder), **settings, batch_size=2)
        assert (model.fps, model.batch_size) == (16, 2)
        model.generate(requests(tmp_path)[:2])
        made.append([request.path.read_bytes() for request in requests(tmp_path)[:2]])
    assert made[0] == made[1]
    with pytest.raises(ValueError, match="there is nothing to move models out of"):
        DiffusersGenerator(str(tmp_path / "modular"), **settings, memory=Memory(offload="model"))


def test_a_pipeline_that_needs_a_picture_is_refused_when_it_is_made(wan: Path) -> None:
    with pytest.raises(ValueError, match="WanImageToVideoPipeline makes no videos from a text alone: it needs image"):
        DiffusersGenerator(str(wan), 1, 1.0, 5, 16, 16, pipeline_class="WanImageToVideoPipeline")


def test_frames_a_second_come_from_the_model(wan: Path, latte: Path) -> None:
    settings = {"num_inference_steps": 1, "guidance_scale": 1.0, "height": 16, "width": 16}
    assert DiffusersGenerator(str(wan), **settings, num_frames=5).fps == 16
    assert DiffusersGenerator(str(latte), **settings, num_frames=4).fps == 8
    assert DiffusersGenerator(str(latte), **settings, num_frames=4, fps=6).fps == 6


def test_sound_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    tone = np.sin(np.arange(24_000, dtype=np.float32) * 0.1)[:, None].repeat(2, axis=1)
    write_video(path, np.zeros((8, 16, 16, 3), np.uint8), fps=8, sound=Sound(tone, 24_000))
    assert read_video(path).shape == (8, 16, 16, 3)
    told = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", path], capture_output=True, text=True).stderr
    assert "Audio: aac" in told
    assert [file.name for file in tmp_path.iterdir()] == ["video.mp4"]


def test_latte_never_renders_a_prompt_alone(latte: Path) -> None:
    settings = {"num_inference_steps": 1, "guidance_scale": 1.0, "num_frames": 4, "height": 16, "width": 16}
    assert DiffusersGenerator(str(latte), **settings, batch_size=1).batch_size == 2


def test_settings_the_pipeline_does_not_take_are_refused(generator: Callable[..., DiffusersGenerator]) -> None:
    with pytest.raises(ValueError, match="takes no flow_shift; it takes"):
        generator(call_kwargs={"flow_shift": 3})
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        generator(batch_size=0)


def test_a_number_of_frames_the_pipeline_rounds_is_refused_in_one_step(
    wan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    forward = WanTransformer3DModel.forward
    monkeypatch.setattr(WanTransformer3DModel, "forward", lambda *a, **k: steps.append(1) or forward(*a, **k))
    with pytest.raises(ValueError, match=r"made videos of shape \(5, 16, 16, 3\) where \(6, 16, 16, 3\)"):
        DiffusersGenerator(str(wan), 50, 1.0, num_frames=6, height=16, width=16)
    assert len(steps) == 1


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
