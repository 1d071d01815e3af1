"""The video model's autoencoder: frames to latents and back. B clips, F frames, C channels, H x W pixels."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DiffusionPipeline
from torch import Tensor

from models.base import Batch, Mean, TrainingModule


class AutoencoderModule(TrainingModule):
    """Reconstruct frames through the ``vae`` of a diffusers pipeline directory.

    The loss is L1 + ``mse_weight`` MSE + ``kl_weight`` KL to a unit Gaussian. Mean squared error is what keeps
    small saturated objects: L1 alone is content with a background where they were.

    Args:
        pretrained: diffusers pipeline directory whose ``vae`` is trained.
        mse_weight: weight of the squared error.
        kl_weight: weight of the divergence, in nats per latent value.
        **kwargs: see :class:`~models.base.TrainingModule`.
    """

    model: AutoencoderKL | None
    latent_std: Tensor

    def __init__(self, pretrained: str, mse_weight: float = 4.0, kl_weight: float = 1e-4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pretrained = pretrained
        self.mse_weight = mse_weight
        self.kl_weight = kl_weight
        self.model = None

    def configure_model(self) -> None:
        """Load the autoencoder, once."""
        if self.model is None:
            self.model = AutoencoderKL.from_pretrained(self.pretrained, subfolder="vae").train()
            self.register_buffer("latent_std", torch.ones(()))

    def measure(self, batch: Batch) -> dict[str, Mean]:
        """Reconstruct ``batch["video"]``, ``(B, F, C, H, W)`` in [-1, 1]."""
        assert self.model is not None
        frames = batch["video"].flatten(0, 1)
        posterior = self.model.encode(frames).latent_dist
        decoded = self.model.decode(posterior.sample()).sample
        if self.training:
            self.latent_std.lerp_(posterior.mean.detach().float().std(), 0.02)
        means = {
            "l1": F.l1_loss(decoded, frames),
            "mse": F.mse_loss(decoded, frames),
            "kl": posterior.kl().mean() / posterior.mean[0].numel(),
        }
        number = torch.tensor(len(batch["video"]), device=frames.device)
        return {name: Mean(value * number, number) for name, value in means.items()}

    def objective(self, means: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the three."""
        return means["l1"] + self.mse_weight * means["mse"] + self.kl_weight * means["kl"]

    @torch.no_grad()
    def export(self, output_dir: Path, merge: bool, dtype: torch.dtype | None) -> None:
        """Write the pipeline directory with the trained autoencoder, scaled to latents of unit deviation.

        ``merge`` changes nothing here.
        """
        assert self.model is not None
        self.model.register_to_config(scaling_factor=1.0 / float(self.latent_std))
        pipeline = DiffusionPipeline.from_pretrained(self.pretrained, vae=self.model.eval())
        if dtype is not None:
            pipeline.to(dtype)
        pipeline.save_pretrained(output_dir)
