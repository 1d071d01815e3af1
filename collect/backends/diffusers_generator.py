"""Video models behind the ``Generator`` protocol."""

import hashlib
import inspect
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray

from collect.backends.identity import sampled_digest
from collect.backends.video import write_video
from collect.protocols import RenderRequest


class DiffusersGenerator:
    """A text-to-video pipeline of diffusers.

    Every batch is filled up to ``batch_size`` by repeating its last request: the shapes that are computed with, and
    so the rounding, are the same whatever else is rendered, and a lone prompt, which ``LattePipeline`` conditions
    in another way than a batch, is never sent alone.

    Args:
        pretrained: Hugging Face id or directory of a diffusers pipeline.
        num_inference_steps: denoising steps.
        guidance_scale: strength of classifier-free guidance; 1 switches it off.
        num_frames: frames of a video.
        height: pixels.
        width: pixels.
        fps: frames per second of the file written.
        batch_size: videos made at once.
        device: where to run, for instance ``cpu`` or ``cuda:0``.
        dtype: precision of the weights.
        enlarge: side of the square each pixel is written as, for tiny videos.
        call_kwargs: further arguments of the pipeline's call.

    Raises:
        FileNotFoundError: if ``pretrained`` looks like a directory and is none.
        ValueError: if the pipeline makes no videos or does not take one of the arguments.
    """

    def __init__(
        self,
        pretrained: str,
        num_inference_steps: int,
        guidance_scale: float,
        num_frames: int,
        height: int,
        width: int,
        fps: int = 8,
        batch_size: int = 8,
        device: str = "cpu",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        enlarge: int = 1,
        call_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        folder = _local(pretrained)
        self.pipeline = DiffusionPipeline.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        accepted = inspect.signature(self.pipeline.__call__).parameters
        # Latte calls the number of frames video_length, everything since num_frames.
        frames = next((name for name in ("num_frames", "video_length") if name in accepted), None)
        if frames is None:
            raise ValueError(f"{type(self.pipeline).__name__} in {pretrained} makes no videos: it takes no num_frames.")
        self.call_kwargs = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            frames: num_frames,
            "height": height,
            "width": width,
            # By default Latte cleans captions only where an optional package is installed.
            **({"clean_caption": False} if "clean_caption" in accepted else {}),
            **(call_kwargs or {}),
        }
        unknown = self.call_kwargs.keys() - accepted.keys()
        if unknown:
            raise ValueError(
                f"{type(self.pipeline).__name__} takes no {', '.join(sorted(unknown))}; "
                f"it takes {', '.join(sorted(accepted))}."
            )
        # Latte cuts the padding off a single prompt but zeroes it in a batch; only the batch is used.
        self.least = 2 if "mask_feature" in accepted else 1
        self.batch_size = max(batch_size, self.least)
        self.shape = (num_frames, height, width, 3)
        self.fps = fps
        self.enlarge = enlarge
        settings = json.dumps([self.call_kwargs, dtype, fps, enlarge], sort_keys=True, default=str)
        self.fingerprint = hashlib.sha256(f"{sampled_digest(folder)} {settings}".encode()).hexdigest()[:16]

    def generate(self, requests: Sequence[RenderRequest]) -> None:
        """Write one mp4 file per request.

        Raises:
            ValueError: if the pipeline rounded the number of frames or the size to something else.
        """
        size = max(self.batch_size, self.least)
        for start in range(0, len(requests), size):
            batch = requests[start : start + size]
            filled = [*batch, *[batch[-1]] * (size - len(batch))]
            videos = self.pipeline(
                prompt=[request.prompt for request in filled],
                generator=[torch.Generator().manual_seed(request.seed) for request in filled],
                output_type="np",
                **self.call_kwargs,
            ).frames
            if videos.shape[1:] != self.shape:
                raise ValueError(
                    f"{type(self.pipeline).__name__} made videos of shape {videos.shape[1:]} where {self.shape} "
                    "(frames, height, width, channels) was asked for; choose num_frames, height and width it can make."
                )
            # Each thread only waits for an encoder process.
            with ThreadPoolExecutor() as pool:
                list(pool.map(self._write, batch, videos))  # raises what any of them raised

    def _write(self, request: RenderRequest, video: NDArray[np.float32]) -> None:
        levels = (video * 255).round().clip(0, 255).astype(np.uint8)
        write_video(request.path, levels, self.fps, self.enlarge)


def _local(pretrained: str) -> Path:
    """Find the pipeline's directory, downloading it where it is an id."""
    folder = Path(pretrained)
    if (folder / "model_index.json").is_file():
        return folder
    if folder.exists() or pretrained.count("/") != 1 or pretrained.startswith((".", "/", "~")):
        raise FileNotFoundError(f"{pretrained} is no diffusers pipeline: it has no model_index.json.")
    return Path(DiffusionPipeline.download(pretrained))
