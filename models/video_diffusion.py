"""The toy video generator: latent diffusion on captions. B clips, F frames, C channels, H x W latents, T tokens."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, LattePipeline
from torch import Tensor

from models.base import Batch, Mean, TrainingModule


class VideoDiffusionModule(TrainingModule):
    """Train transformer and text encoder of a ``LattePipeline`` directory by v-prediction.

    Target v = alpha_t noise - sigma_t latents (Salimans and Ho 2022, https://arxiv.org/abs/2202.00512). The
    pipeline gives its transformer no text mask, and conditions in two ways: of a single prompt it cuts padded
    embeddings off, of a batch it zeroes them. Both are trained, in the proportion ``padded_share``.

    Args:
        pretrained: pipeline directory with a trained autoencoder.
        caption_dropout: share of clips trained without their caption, for classifier-free guidance.
        padded_share: share of steps trained with zeroed padding, as the pipeline conditions a batch of prompts.
        **kwargs: see :class:`~models.base.TrainingModule`.
    """

    alphas_cumprod: Tensor
    empty_ids: Tensor

    def __init__(
        self, pretrained: str, caption_dropout: float = 0.1, padded_share: float = 0.25, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.pretrained = pretrained
        self.caption_dropout = caption_dropout
        self.padded_share = padded_share
        self.pipeline: LattePipeline | None = None
        self._latents: dict[int, Tensor] = {}

    def configure_model(self) -> None:
        """Load the pipeline, once; its autoencoder stays as it is."""
        if self.pipeline is not None:
            return
        self.pipeline = LattePipeline.from_pretrained(self.pretrained)
        self.vae = self.pipeline.vae.requires_grad_(False).eval()
        self.transformer = self.pipeline.transformer.train()
        self.text_encoder = self.pipeline.text_encoder.train()
        self.register_buffer("alphas_cumprod", self.pipeline.scheduler.alphas_cumprod, persistent=False)
        empty = self.pipeline.tokenizer("", return_tensors="pt").input_ids
        self.register_buffer("empty_ids", empty, persistent=False)

    def measure(self, batch: Batch) -> dict[str, Mean]:
        """Predict v for ``batch["video"]`` ``(B, F, C, H, W)`` under its caption ``batch["input_ids"]`` ``(B, T)``."""
        assert self.pipeline is not None
        latents = self._encode(batch)
        steps = torch.randint(0, len(self.alphas_cumprod), (len(latents),), device=latents.device)
        noise = torch.randn_like(latents)
        alpha = self.alphas_cumprod[steps].sqrt()[:, None, None, None, None]
        sigma = (1 - self.alphas_cumprod[steps]).sqrt()[:, None, None, None, None]
        embeddings, mask = self._embed(batch)
        predicted = self.transformer(
            alpha * latents + sigma * noise,
            timestep=steps,
            encoder_hidden_states=embeddings,
            encoder_attention_mask=mask,
        ).sample.chunk(2, dim=1)[0]  # the pipeline drops the second half, a variance it does not use
        number = torch.tensor(len(latents), device=latents.device)
        return {"loss": Mean(F.mse_loss(predicted, alpha * noise - sigma * latents) * number, number)}

    def _encode(self, batch: Batch) -> Tensor:
        """Scaled latents ``(B, C, F, H, W)``; a clip is encoded the first time it is seen."""
        indices = batch["index"].tolist()
        missing = [row for row, index in enumerate(indices) if index not in self._latents]
        if missing:
            videos = batch["video"][missing]
            with torch.no_grad():
                encoded = self.vae.encode(videos.flatten(0, 1)).latent_dist.mean * self.vae.config.scaling_factor
            encoded = encoded.unflatten(0, videos.shape[:2]).transpose(1, 2)
            for row, latent in zip(missing, encoded, strict=True):
                self._latents[indices[row]] = latent
        return torch.stack([self._latents[index] for index in indices])

    def _embed(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Text embeddings ``(B, T, D)`` and, in the single-prompt form, what to add to attention, ``(B F, 1, T)``."""
        ids, keep = batch["input_ids"], batch["attention_mask"]
        dropped = torch.rand(len(ids), device=ids.device) < self.caption_dropout
        empty = F.pad(self.empty_ids, (0, ids.shape[1] - self.empty_ids.shape[1]), value=self.pad_id)
        ids = torch.where(dropped[:, None], empty, ids)
        empty_keep = F.pad(torch.ones_like(self.empty_ids), (0, ids.shape[1] - self.empty_ids.shape[1]))
        attention = torch.where(dropped[:, None], empty_keep, keep)
        embeddings = self.text_encoder(ids, attention_mask=attention)[0]
        # The pipeline cuts or zeroes the prompt by the prompt's own length, and never masks the empty prompt.
        if torch.rand(()) < self.padded_share:
            return embeddings * torch.where(dropped[:, None], 1, keep)[..., None], None
        longest = int(keep.sum(1).max())
        frames = batch["video"].shape[1]
        bias = -1e4 * (1 - keep[:, None, :longest].to(embeddings.dtype))
        return embeddings[:, :longest], bias.repeat_interleave(frames, 0)

    @property
    def pad_id(self) -> int:
        """The text tokenizer's padding id."""
        assert self.pipeline is not None
        return int(self.pipeline.tokenizer.pad_token_id)

    def export(self, output_dir: Path, merge: bool, dtype: torch.dtype | None) -> None:
        """Write the pipeline directory; ``merge`` changes nothing here."""
        assert self.pipeline is not None
        self.transformer.eval()
        self.text_encoder.eval()
        if dtype is not None:
            self.pipeline.to(dtype)
        DiffusionPipeline.save_pretrained(self.pipeline, output_dir)
