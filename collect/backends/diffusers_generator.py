"""Video models of diffusers behind the ``Generator`` protocol."""

import gc
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ModularPipeline
from numpy.typing import NDArray

from collect.backends.identity import identify
from collect.backends.memory import is_out_of_memory
from collect.backends.pipeline_call import accepted_arguments, call_arguments, fewest_steps, frames_per_second
from collect.backends.pipeline_identity import pipeline_fingerprint
from collect.backends.pipeline_loading import (
    Adapter,
    Component,
    Precision,
    add_adapters,
    load_pipeline,
    local_folder,
    set_scheduler,
)
from collect.backends.pipeline_memory import Memory, fit_to_machine
from collect.backends.video import Sound, write_video
from collect.protocols import RenderRequest

logger = logging.getLogger(__name__)

TOLERANCE = 2 / 255  # two levels: what differs by less is rounding
SHORT = "a cat"
LONG = "a cat that walks slowly over a wide green hill towards a small red house, seen from far above at sunset, " * 2


class DiffusersGenerator:
    """A text-to-video pipeline of diffusers, of the modular kind too.

    When it is made it rehearses: one denoising step at full size and batch. Settings that cannot work are refused
    there, and not after a whole video: arguments, sizes that the pipeline rounds, numbers that are not finite, memory.

    The same prompt and seed give the same video up to rounding, whatever else is rendered. Where a video depends on its
    neighbours in the batch by more than that, which the rehearsal finds out, videos are made one at a time. Rounding
    differs with the size of a batch and the place in it, in half precision by more; ``batch_size`` 1 knows no such
    difference, and ``fill_batches`` keeps at least the size the same.

    ``LattePipeline`` conditions a lone prompt in another way than a batch, so it always gets a batch: a lone prompt is
    sent twice.

    Memory that runs out halves the batch, down to one video.

    Args:
        pretrained: Hugging Face id or directory of a diffusers pipeline.
        num_inference_steps: denoising steps; null where ``call_kwargs`` gives sigmas or the pipeline decides.
        guidance_scale: strength of classifier-free guidance; null where the pipeline decides. A pipeline with a guider
            gets it there.
        num_frames: frames of a video.
        height: pixels.
        width: pixels.
        fps: frames per second of the file written, and of the model where it is told; by default the model's own.
        negative_prompt: what is not to be seen.
        batch_size: videos made at once; a large model fills a GPU with one.
        fill_batches: fill the last batch by repeating its last request, so that all have the same shapes.
        device: where to run, for instance ``cpu`` or ``cuda:0``.
        dtype: precision of the weights, or of each component by name with ``default`` for the others. Where it is one
            for all, the autoencoders of Wan, SkyReels-V2 and SANA-Video keep float32, as their makers run them.
        memory: how the pipeline is fitted to the machine.
        scheduler: settings of the scheduler to change, as ``flow_shift: 8``; ``class_name`` changes its class.
        loras: adapters for the video model.
        components: parts that come from elsewhere, by name; null leaves a part out.
        pipeline_class: class of diffusers, where not the one that the checkpoint names.
        quantization: arguments of ``PipelineQuantizationConfig``; needs the package of its ``quant_backend``.
        load_kwargs: further arguments of ``from_pretrained``, as ``variant: fp16`` or ``revision``.
        call_kwargs: further arguments of the pipeline's call.
        prepare: a function that is called with the pipeline once it is loaded, for anything else.
        enlarge: side of the square each pixel is written as, for tiny videos.

    Raises:
        FileNotFoundError: if ``pretrained`` looks like a directory and is none.
        ValueError: if the pipeline cannot make such videos from texts.
    """

    def __init__(
        self,
        pretrained: str,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        num_frames: int,
        height: int,
        width: int,
        fps: int | None = None,
        negative_prompt: str | None = None,
        batch_size: int = 1,
        fill_batches: bool = False,
        device: str = "cpu",
        dtype: Precision | dict[str, Precision] = "float32",
        memory: Memory = Memory(),
        scheduler: dict[str, Any] | None = None,
        loras: list[Adapter] | None = None,
        components: dict[str, Component | None] | None = None,
        pipeline_class: str | None = None,
        quantization: dict[str, Any] | None = None,
        load_kwargs: dict[str, Any] | None = None,
        call_kwargs: dict[str, Any] | None = None,
        prepare: Callable[[Any], None] | None = None,
        enlarge: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        folder = local_folder(pretrained, load_kwargs or {})
        self.pipeline = load_pipeline(folder, pipeline_class, dtype, components or {}, quantization, load_kwargs or {})
        self.pipeline.set_progress_bar_config(disable=True)
        accepted = accepted_arguments(self.pipeline)
        self.fps = fps or frames_per_second(self.pipeline, accepted)
        self.call_kwargs = call_arguments(
            self.pipeline,
            accepted,
            num_inference_steps,
            guidance_scale,
            num_frames,
            height,
            width,
            self.fps,
            negative_prompt,
            call_kwargs or {},
        )
        if scheduler:
            set_scheduler(self.pipeline, scheduler)
        add_adapters(self.pipeline, loras or [])
        if prepare is not None:
            prepare(self.pipeline)
        fit_to_machine(self.pipeline, memory, device)
        # Latte cuts the padding off a single prompt but zeroes it in a batch; only the batch is used.
        self.least = 2 if "mask_feature" in accepted else 1
        self.batch_size = max(batch_size, self.least)
        self.fill_batches = fill_batches
        self.shape = (num_frames, height, width, 3)
        self.enlarge = enlarge
        parts = [part for part in (components or {}).values() if part is not None]
        self.fingerprint = pipeline_fingerprint(
            folder,
            [part.pretrained for part in parts] + [lora.pretrained for lora in loras or []],
            [
                [
                    self.call_kwargs,
                    guidance_scale,
                    self.fps,
                    dtype,
                    scheduler,
                    memory.visible_settings(),
                    quantization,
                    enlarge,
                ],
                [pipeline_class, load_kwargs, identify(prepare), *map(asdict, parts), *map(asdict, loras or [])],
            ],
        )
        self._rehearse(dtype, device)

    def generate(self, requests: Sequence[RenderRequest]) -> None:
        """Write one mp4 file per request.

        Raises:
            ValueError: if what comes out is no video of the size asked for.
        """
        done = 0
        while done < len(requests):
            batch = requests[done : done + self.batch_size]
            made = self._unless_too_large(batch)
            if made is None:
                continue
            videos, sounds = made
            # Each thread only waits for an encoder process.
            with ThreadPoolExecutor() as pool:
                list(pool.map(self._write, batch, videos, sounds))  # raises what any of them raised
            done += len(batch)

    def _unless_too_large(self, batch: Sequence[RenderRequest], **changes: Any) -> Any:
        """Make videos, or make the batch smaller where memory runs out."""
        try:
            return self._make(batch, **changes)
        except (RuntimeError, MemoryError) as error:
            if self.batch_size == self.least or not is_out_of_memory(error):
                raise
        # The dead call's tensors went with its error.
        gc.collect()
        torch.cuda.empty_cache()
        self.batch_size = max(self.least, min(self.batch_size, len(batch)) // 2)
        logger.warning("Memory ran out; from now on %d videos are made at once.", self.batch_size)
        return None

    def _make(
        self, batch: Sequence[RenderRequest], **changes: Any
    ) -> tuple[NDArray[np.float32], Sequence[Sound | None]]:
        size = self.batch_size if self.fill_batches else self.least
        filled = [*batch, *[batch[-1]] * (size - len(batch))]
        arguments = self.call_kwargs | changes
        if "negative_prompt" in arguments:  # several pipelines take it only in the form of the prompts
            arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(filled)
        asked = {
            "prompt": [request.prompt for request in filled],
            "generator": [torch.Generator().manual_seed(request.seed) for request in filled],
            "output_type": "np",
        }
        if isinstance(self.pipeline, ModularPipeline):  # its sound, if it makes any, is left out
            output = {"frames": self.pipeline(**asked, **arguments, output="videos")}
        else:
            output = self.pipeline(**asked, **arguments)
        videos = np.asarray(output["frames"])
        name = type(self.pipeline).__name__
        if videos.shape[1:] != self.shape:
            raise ValueError(
                f"{name} made videos of shape {videos.shape[1:]} where {self.shape} "
                "(frames, height, width, channels) was asked for; choose num_frames, height and width it can make."
            )
        if not np.isfinite(videos).all():
            raise ValueError(
                f"{name} made numbers that are not finite, which no video can hold. float16 overflows where "
                "bfloat16 or float32 do not: choose another dtype, for instance {default: bfloat16, vae: float32}."
            )
        return videos[: len(batch)], sounds_of(self.pipeline, output, len(batch))

    def _rehearse(self, dtype: Any, device: str) -> None:
        """Find out in one step what would otherwise be found out after many.

        Raises:
            ValueError: if no video can be made.
        """
        changes = fewest_steps(self.pipeline, self.call_kwargs)
        short, long = (RenderRequest(text, seed, Path()) for seed, text in enumerate((SHORT, LONG)))
        try:
            while self._unless_too_large(([long, short] * self.batch_size)[: self.batch_size], **changes) is None:
                pass
            if self.batch_size == self.least:
                return
            alone, _ = self._make([short], **changes)
            together, _ = self._make([short, *[long] * (self.batch_size - 1)], **changes)
        except Exception as error:  # whatever a pipeline may raise
            wrong = f"{type(self.pipeline).__name__} cannot make videos with these settings"
            if is_out_of_memory(error):
                frames, height, width, _ = self.shape
                raise ValueError(
                    f"{wrong}: one of {frames} frames of {height} x {width} needs more memory than {device} has. Set "
                    f"memory.offload or memory.vae_tiling, or a smaller dtype than {dtype}."
                ) from error
            raise ValueError(f"{wrong}: {type(error).__name__}: {error}") from error
        difference = float(np.abs(alone[0] - together[0]).max())
        if difference > TOLERANCE:
            self.batch_size = self.least
            logger.warning(
                "%s makes another video of a prompt beside others (up to %.0f of 255 levels after one step), so "
                "batch_size is %d.",
                type(self.pipeline).__name__,
                difference * 255,
                self.least,
            )

    def _write(self, request: RenderRequest, video: NDArray[np.float32], sound: Sound | None) -> None:
        levels = (video * 255).round().clip(0, 255).astype(np.uint8)
        write_video(request.path, levels, self.fps, self.enlarge, sound)


def sounds_of(pipeline: Any, output: Any, num_videos: int) -> Sequence[Sound | None]:
    """What each video sounds like; nothing where the model makes no sound."""
    if output.get("audio") is None:
        return [None] * num_videos
    named = type(pipeline).__name__
    rate = pipeline.audio_sample_rate if "Kandinsky6" in named else pipeline.vocoder.config.output_sampling_rate
    waves = torch.as_tensor(output["audio"]).float().cpu().numpy()[:num_videos]
    return [Sound(wave.reshape(-1, wave.shape[-1]).T, rate) for wave in waves]  # (channels, samples) or (samples)
