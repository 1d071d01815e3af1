"""Clips of the toy world with their captions, for training the toy generator. F frames, H x W pixels, RGB."""

import random

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from data_modules.loader import ResumableLoader
from data_modules.toyworld import CAPTION_SHARES, caption, render, worlds
from data_modules.toyworld.grammar import Split

TEXT_LENGTH = 120  # tokens, as LattePipeline pads


class ToyClips(Dataset[dict[str, Tensor]]):
    """Clip ``i`` shows world ``i`` modulo the split, with a path and a caption drawn from seed ``i``.

    Args:
        split: which combinations of attributes to show.
        num_clips: how many clips.
        tokenizer: the generator's text tokenizer.
        first_index: added to ``i`` in the batches, so that no two splits share an index.
    """

    def __init__(self, split: Split, num_clips: int, tokenizer: PreTrainedTokenizerBase, first_index: int = 0) -> None:
        self.first_index = first_index
        shown = worlds(split)
        chosen = [shown[index % len(shown)] for index in range(num_clips)]
        self.videos = [torch.from_numpy(render(world, seed)) for seed, world in enumerate(chosen)]
        captions = [caption(world, random.Random(seed), CAPTION_SHARES) for seed, world in enumerate(chosen)]
        self.text = tokenizer(
            [text.lower() for text in captions], padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt"
        )

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return ``video`` ``(F, C, H, W)`` in [-1, 1], ``index``, ``input_ids`` and ``attention_mask`` ``(120,)``."""
        return {
            "video": self.videos[index].permute(0, 3, 1, 2).float() / 127.5 - 1,
            "index": torch.tensor(self.first_index + index),
            "input_ids": self.text.input_ids[index],
            "attention_mask": self.text.attention_mask[index],
        }


class ToyVideoDataModule(LightningDataModule):
    """Rendered toy-world clips, captioned with the generator's own skewed wordings.

    Args:
        tokenizer: directory of the generator's tokenizer.
        num_clips: clips in the training split; validation has a sixteenth of it.
        batch_size: clips per device.
    """

    def __init__(self, tokenizer: str, num_clips: int = 6144, batch_size: int = 32) -> None:
        super().__init__()
        self.tokenizer_path = tokenizer
        self.num_clips = num_clips
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        """Render every clip."""
        tokenizer = AutoTokenizer.from_pretrained(self.tokenizer_path)
        self.val = ToyClips("val", self.num_clips // 16, tokenizer, first_index=self.num_clips)
        if stage == "fit":
            self.train = ToyClips("train", self.num_clips, tokenizer)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Shuffled training clips."""
        return ResumableLoader(self.train, self.batch_size, drop_last=True)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Clips of combinations that training never shows."""
        return DataLoader(self.val, self.batch_size, generator=torch.Generator())
