"""How a pipeline is fitted to a machine: what is moved, cut into pieces, stored in fewer bits or compiled."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

DENOISERS = ("transformer", "transformer_2", "unet")


@dataclass(frozen=True)
class Memory:
    """How a pipeline is fitted to a machine.

    Args:
        offload: what waits in the machine's memory until it is needed: ``model`` moves whole models, ``group`` their
            layers, ``sequential`` every module, which is the smallest and the slowest.
        vae_tiling: decode a frame in overlapping pieces.
        vae_slicing: decode a batch one video at a time.
        attention: attention backend of diffusers, for instance ``flash`` or ``sage``.
        layerwise: precision that the denoiser's weights are stored in between their layers' turns.
        compile: compile the denoiser; the first video takes minutes longer.
    """

    offload: Literal["model", "group", "sequential"] | None = None
    vae_tiling: bool = False
    vae_slicing: bool = False
    attention: str | None = None
    layerwise: Literal["float8_e4m3fn", "float8_e5m2"] | None = None
    compile: bool = False

    def visible_settings(self) -> list[Any]:
        """What of it can be seen in a video, be it as rounding."""
        return [self.vae_tiling, self.attention, self.layerwise, self.compile]


def fit_to_machine(pipeline: Any, memory: Memory, device: str) -> None:
    """Fit a pipeline that lies on the CPU to a machine, and move it there.

    Raises:
        ValueError: if something was asked for that this pipeline or device cannot do.
    """
    if memory.offload is not None and torch.device(device).type == "cpu":
        raise ValueError(f"offload is {memory.offload} but device is {device}: there is nothing to move models out of.")
    if memory.offload is not None and "enable_model_cpu_offload" not in dir(pipeline):
        raise ValueError(f"{type(pipeline).__name__} is modular and takes no offload; leave it out.")
    denoisers = [pipeline.components[name] for name in DENOISERS if pipeline.components.get(name) is not None]
    vae = pipeline.components.get("vae")
    for wanted, name in ((memory.vae_tiling, "enable_tiling"), (memory.vae_slicing, "enable_slicing")):
        if wanted and name not in dir(vae):
            raise ValueError(f"{type(vae).__name__} of this pipeline has no {name}; leave vae_{name[7:]} out.")
        if wanted:
            getattr(vae, name)()
    for denoiser in denoisers:
        if memory.attention is not None:
            denoiser.set_attention_backend(memory.attention)
        if memory.layerwise is not None:
            denoiser.enable_layerwise_casting(getattr(torch, memory.layerwise), denoiser.dtype)
    if memory.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif memory.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    elif memory.offload == "group":
        pipeline.enable_group_offload(torch.device(device), offload_type="leaf_level", use_stream=True)
    else:
        pipeline.to(device)
    for denoiser in denoisers if memory.compile else ():
        # Blocks that repeat are compiled once, in a fraction of the time.
        if type(denoiser)._repeated_blocks:
            denoiser.compile_repeated_blocks()
        else:
            denoiser.compile()
