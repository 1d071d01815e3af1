"""The toy video generator before training: a small LattePipeline with random weights."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, LattePipeline, LatteTransformer3DModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

LATENT_CHANNELS = 8
TEXT_WIDTH = 64


def word_tokenizer(captions: Sequence[str]) -> PreTrainedTokenizerFast:
    """Make one token of every word and mark of the captions; anything else becomes ``<unk>``."""
    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    words = sorted({word for text in captions for word, _ in split.pre_tokenize_str(text.lower())})
    vocabulary = {token: index for index, token in enumerate(["<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=120
    )


def random_pipeline(
    captions: Sequence[str],
    sample_size: int = 32,
    num_frames: int = 8,
    width: int = 128,
    num_layers: int = 4,
    seed: int = 0,
) -> LattePipeline:
    """Build the pipeline that the toy generator is trained from.

    Args:
        captions: texts whose words become the text encoder's vocabulary.
        sample_size: height and width of the frames, in pixels.
        num_frames: frames per video.
        width: channels of the transformer.
        num_layers: pairs of one spatial and one temporal block.
        seed: of the random weights.
    """
    torch.manual_seed(seed)
    tokenizer = word_tokenizer(captions)
    text_encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=TEXT_WIDTH,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=sample_size,
        mid_block_add_attention=False,
    )
    transformer = LatteTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=width // 4,
        in_channels=LATENT_CHANNELS,
        out_channels=2 * LATENT_CHANNELS,
        num_layers=num_layers,
        cross_attention_dim=width,
        attention_bias=True,
        sample_size=sample_size // 4,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=TEXT_WIDTH,
        video_length=num_frames,
    )
    scheduler = DDIMScheduler(
        beta_schedule="linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    return LattePipeline(tokenizer, text_encoder, autoencoder, transformer, scheduler)


def generator(captions: Path, output_dir: Path) -> None:
    """Write the untrained toy generator as a diffusers directory.

    Args:
        captions: JSONL file with a key ``caption``; its words become the text encoder's vocabulary.
        output_dir: directory to create.

    Raises:
        FileNotFoundError: if there is no such captions file.
    """
    if not captions.is_file():
        raise FileNotFoundError(f"{captions} does not exist; `make data` writes it.")
    texts = [json.loads(line)["caption"] for line in captions.read_text(encoding="utf-8").splitlines()]
    random_pipeline(texts).save_pretrained(output_dir)


def half_generator(pretrained: Path, output_dir: Path) -> None:
    """Store a trained generator small: float16, but for the text encoder, which transformers loads as stored.

    Args:
        pretrained: diffusers pipeline directory.
        output_dir: directory to create or replace.
    """
    pipeline = LattePipeline.from_pretrained(pretrained)
    pipeline.vae.half()
    pipeline.transformer.half()
    pipeline.save_pretrained(output_dir)
