"""Tiny random-weight pipelines of the real classes."""

from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    LattePipeline,
    LatteTransformer3DModel,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

WORDS = ["a", "the", "is", "in", "on", "at", "red", "blue", "green", "ball", "box", "falling", "night", "hill", "water"]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, with T5's special tokens."""
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def tiny_latte(folder: Path) -> Path:
    """Save a LattePipeline of a few thousand random weights: 16 x 16 pixels, any number of frames."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    LattePipeline(
        tokenizer=tokenizer,
        text_encoder=T5EncoderModel(
            T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        ).eval(),
        vae=AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=2,
        ).eval(),
        transformer=LatteTransformer3DModel(
            sample_size=2,
            num_layers=1,
            patch_size=1,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=16,
            in_channels=4,
            cross_attention_dim=16,
            out_channels=8,
            attention_bias=True,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            video_length=4,
        ).eval(),
        scheduler=DDIMScheduler(),
    ).save_pretrained(folder)
    return folder


def tiny_wan(folder: Path) -> Path:
    """Save a WanPipeline of a few thousand random weights: multiples of 16 pixels, 4 n + 1 frames."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    WanPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(
            UMT5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        ).eval(),
        vae=AutoencoderKLWan(
            base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
        ).eval(),
        transformer=WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=16,
            freq_dim=16,
            ffn_dim=16,
            num_layers=1,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def latte(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny LattePipeline."""
    return tiny_latte(tmp_path_factory.mktemp("latte"))


@pytest.fixture(scope="session")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny WanPipeline."""
    return tiny_wan(tmp_path_factory.mktemp("wan"))
