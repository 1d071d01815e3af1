"""What a pipeline's call takes: each names its arguments in its own way."""

import inspect
from collections.abc import Mapping
from typing import Any

from diffusers import ModularPipeline

from collect.backends.pipeline_loading import set_component

FRAMES = ("num_frames", "video_length", "frames")  # Latte says video_length, SANA-Video frames
RATES = ("frame_rate", "fps")

# Frames a second of what the makers' own scripts write, where the pipeline's call does not say.
FPS = {
    "AllegroPipeline": 15,  # https://github.com/rhymes-ai/Allegro, README
    "AnimateDiffPipeline": 8,  # https://github.com/guoyww/AnimateDiff, README
    "HunyuanVideo15Pipeline": 24,  # https://github.com/Tencent-Hunyuan/HunyuanVideo-1.5, README
    "HunyuanVideoPipeline": 24,  # https://github.com/Tencent-Hunyuan/HunyuanVideo, sample_video.py
    "Kandinsky5T2VPipeline": 24,  # https://github.com/ai-forever/kandinsky-5, README
    "LattePipeline": 8,  # https://github.com/Vchitect/Latte, configs/t2x/t2v_sample.yaml
    "MochiPipeline": 30,  # https://github.com/genmoai/mochi, README
    "SanaVideoPipeline": 16,  # https://github.com/NVlabs/Sana, docs
    "SkyReelsV2Pipeline": 24,  # https://github.com/SkyworkAI/SkyReels-V2, README
    "TextToVideoSDPipeline": 8,  # diffusers, export_to_video of its example
}


def accepted_arguments(pipeline: Any) -> dict[str, Any]:
    """Defaults of a pipeline's arguments by name.

    Raises:
        ValueError: if it makes no videos, or cannot make one from a text alone.
    """
    name = type(pipeline).__name__
    if isinstance(pipeline, ModularPipeline):
        parameters = {
            put.name: inspect.Parameter(
                put.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if put.required else put.default,
            )
            for put in pipeline.blocks.inputs
        }
    else:
        parameters = dict(inspect.signature(pipeline.__call__).parameters)
    if not parameters.keys() & set(FRAMES):
        raise ValueError(f"{name} makes no videos: it takes none of {', '.join(FRAMES)}.")
    needed = [key for key, value in parameters.items() if value.default is value.empty and key != "prompt"]
    needed = [key for key in needed if parameters[key].kind is not inspect.Parameter.VAR_KEYWORD]
    if needed or "ImageToVideo" in name or "VideoToVideo" in name:
        raise ValueError(
            f"{name} makes no videos from a text alone: it needs {', '.join(needed) or 'a picture or a video'}. "
            "Choose the text-to-video checkpoint of this model."
        )
    return {key: value.default for key, value in parameters.items()}


def call_arguments(
    pipeline: Any,
    accepted: Mapping[str, Any],
    num_inference_steps: int | None,
    guidance_scale: float | None,
    num_frames: int,
    height: int,
    width: int,
    fps: int,
    negative_prompt: str | None,
    call_kwargs: Mapping[str, Any],
) -> dict[str, Any]:
    """Say what is asked for in the pipeline's own words; where a guider holds the guidance, it is set there.

    Returns:
        The arguments of the call but for prompts and generators. A negative prompt is one text here; the call needs a
        list as long as the batch.

    Raises:
        ValueError: if the pipeline does not take one of the arguments.
    """
    if "negative_prompt" in call_kwargs:
        raise ValueError("negative_prompt is an argument of its own; take it out of call_kwargs.")
    if guidance_scale is not None and "guidance_scale" not in accepted and "guider" in pipeline.components:
        set_component(pipeline, "guider", pipeline.guider.new(guidance_scale=guidance_scale))
        guidance_scale = None
    optional = {
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "negative_prompt": negative_prompt,
    }
    arguments = {
        next(name for name in FRAMES if name in accepted): num_frames,
        "height": height,
        "width": width,
        **{name: value for name, value in optional.items() if value is not None},
        **{name: fps for name in RATES if name in accepted},
        # By default Latte cleans captions only where an optional package is installed.
        **({"clean_caption": False} if "clean_caption" in accepted else {}),
        **call_kwargs,
    }
    unknown = arguments.keys() - accepted.keys()
    if unknown:
        raise ValueError(
            f"{type(pipeline).__name__} takes no {', '.join(sorted(unknown))}; it takes {', '.join(sorted(accepted))}."
        )
    return arguments


def fewest_steps(pipeline: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Make the arguments of a call those of the shortest call that does the same: one step, and Mochi two."""
    steps = 2 if type(pipeline).__name__ == "MochiPipeline" else 1  # its schedule is in halves
    shorter = dict(arguments)
    for name in ("sigmas", "timesteps"):
        if shorter.get(name) is not None:
            shorter[name] = shorter[name][:steps]
    return shorter | ({"num_inference_steps": steps} if "num_inference_steps" in shorter else {})


def frames_per_second(pipeline: Any, accepted: Mapping[str, Any]) -> int:
    """How many frames a second the model's videos have.

    Raises:
        ValueError: if neither the pipeline nor its makers' scripts say.
    """
    name = type(pipeline).__name__
    for rate in RATES:
        if accepted.get(rate):
            return round(accepted[rate])
    if name in (
        "WanPipeline",
        "WanModularPipeline",
    ):  # https://github.com/Wan-Video/Wan2.2, wan/configs: 24 for the 5B model alone
        return 24 if pipeline.config.get("expand_timesteps") else 16
    if name == "CogVideoXPipeline":  # https://github.com/zai-org/CogVideo, README: 16 since 1.5
        return 16 if pipeline.transformer.config.patch_size_t else 8
    if name not in FPS:
        raise ValueError(f"{name} does not say how many frames a second its videos have; give fps.")
    return FPS[name]
