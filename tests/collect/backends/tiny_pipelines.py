"""Tiny pipelines of the real classes: random weights, a few thousand of them, saved as a user would find them.

Sizes follow the smallest that diffusers' own tests use (https://github.com/huggingface/diffusers, tests/pipelines).
Where a text path begins at zero in a fresh model, noise is added to it: otherwise no video would depend on its prompt.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

WORDS = ["a", "the", "is", "in", "on", "at", "and", "red", "blue", "ball", "box", "cat", "falling", "hill", "water"]


def word_tokenizer(**settings: Any) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of whole words that ends every text with a token of its own."""
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        **({"model_max_length": 512} | settings),
    )


def template_tokenizer(head: str, before: int, tail: str, behind: int) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer that, as the real one, makes so many tokens of what a template writes before and behind a prompt."""
    tokenizer = word_tokenizer(
        model_max_length=2048,
        chat_template=f"{{{{ '{'a ' * before}' + messages[-1]['content'] + '{' a' * behind}' }}}}",
    )
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(single="$A")
    if head:
        backend.normalizer = normalizers.Sequence(
            [normalizers.Replace(head, "a " * before), normalizers.Replace(tail, " a" * behind)]
        )
    return tokenizer


def t5(kind: str = "T5") -> nn.Module:
    """A text encoder of one layer of 16."""
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    return getattr(transformers, f"{kind}EncoderModel")(config).eval()


def clip(hidden_size: int = 16) -> nn.Module:
    """A text encoder that ends at 77 tokens."""
    config = transformers.CLIPTextConfig(
        vocab_size=32,
        hidden_size=hidden_size,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=0,
    )
    return transformers.CLIPTextModel(config).eval()


def decoder(kind: str) -> nn.Module:
    """A text encoder that is a language model: Llama, Qwen2, Gemma2 or Qwen2_5_VLText, 16 wide."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    if kind == "Qwen2_5_VLText":
        sizes["rope_parameters"] = {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e6}
        heads.pop("head_dim")
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=32, pad_token_id=0, bos_token_id=0, eos_token_id=1, **sizes, **heads
    )
    return getattr(transformers, f"{kind}Model")(config).eval()


def wan_vae() -> nn.Module:
    """Four times fewer frames, eight times smaller sides."""
    return diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).eval()


def hunyuan_vae() -> nn.Module:
    """The same ratios, causal 3D convolutions."""
    return diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    ).eval()


def wan_transformer(kind: str = "WanTransformer3DModel", **changes: Any) -> nn.Module:
    """Wan's, and SkyReels', which is one of its kin."""
    settings = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 16,
        "freq_dim": 16,
        "ffn_dim": 16,
        "num_layers": 1,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 32,
    }
    return getattr(diffusers, kind)(**(settings | changes)).eval()


def flow(shift: float = 3.0) -> Any:
    """The scheduler of most of them."""
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)


def unipc() -> Any:
    """The scheduler that Wan's checkpoints and SkyReels' name."""
    return diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)


def wan(**changes: Any) -> Any:
    """Wan2.1; with a second transformer Wan2.2 A14B."""
    parts = {"tokenizer": word_tokenizer(), "text_encoder": t5("UMT5"), "vae": wan_vae()}
    parts |= {"transformer": wan_transformer(), "scheduler": unipc()}
    return diffusers.WanPipeline(**(parts | changes))


def wan22() -> Any:
    """Wan2.2 A14B: one transformer for high noise, one for low."""
    return wan(transformer_2=wan_transformer(), boundary_ratio=0.875)


def skyreels() -> Any:
    """SkyReels-V2."""
    return diffusers.SkyReelsV2Pipeline(
        tokenizer=word_tokenizer(),
        text_encoder=t5("UMT5"),
        vae=wan_vae(),
        transformer=wan_transformer("SkyReelsV2Transformer3DModel"),
        scheduler=unipc(),
    )


def hunyuan() -> Any:
    """HunyuanVideo: Llama behind a template, and CLIP."""
    return diffusers.HunyuanVideoPipeline(
        tokenizer=word_tokenizer(),
        text_encoder=decoder("Llama"),
        tokenizer_2=word_tokenizer(model_max_length=77),
        text_encoder_2=clip(8),
        vae=hunyuan_vae(),
        transformer=diffusers.HunyuanVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=10,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            patch_size=1,
            text_embed_dim=16,
            pooled_projection_dim=8,
            rope_axes_dim=(2, 4, 4),
        ).eval(),
        scheduler=flow(7.0),
    )


def hunyuan15() -> Any:
    """HunyuanVideo-1.5: Qwen2.5-VL and ByT5, and a guider in the place of guidance_scale."""
    byt5 = transformers.T5Config(vocab_size=384, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return diffusers.HunyuanVideo15Pipeline(
        tokenizer=template_tokenizer("", 108, "", 5),
        text_encoder=decoder("Qwen2_5_VLText"),
        tokenizer_2=transformers.ByT5Tokenizer(),
        text_encoder_2=transformers.T5EncoderModel(byt5).eval(),
        vae=diffusers.AutoencoderKLHunyuanVideo15(
            latent_channels=4,
            block_out_channels=(16, 16),
            layers_per_block=1,
            spatial_compression_ratio=4,
            temporal_compression_ratio=2,
            downsample_match_channel=False,
            upsample_match_channel=False,
        ).eval(),
        transformer=diffusers.HunyuanVideo15Transformer3DModel(
            in_channels=9,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_refiner_layers=1,
            mlp_ratio=2.0,
            text_embed_dim=16,
            text_embed_2_dim=32,
            image_embed_dim=12,
            rope_axes_dim=(2, 2, 4),
            target_size=16,
            task_type="t2v",
        ).eval(),
        scheduler=flow(5.0),
        guider=diffusers.ClassifierFreeGuidance(guidance_scale=1.0),
    )


def cogvideox() -> Any:
    """CogVideoX-2B's form."""
    return diffusers.CogVideoXPipeline(
        tokenizer=word_tokenizer(),
        text_encoder=t5(),
        vae=diffusers.AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2
        ).eval(),
        transformer=diffusers.CogVideoXTransformer3DModel(
            num_attention_heads=4,
            attention_head_dim=8,
            in_channels=4,
            out_channels=4,
            time_embed_dim=2,
            text_embed_dim=16,
            num_layers=1,
            sample_width=2,
            sample_height=2,
            sample_frames=9,
        ).eval(),
        scheduler=diffusers.CogVideoXDDIMScheduler(),
    )


def ltx() -> Any:
    """LTX-Video."""
    return diffusers.LTXPipeline(
        tokenizer=word_tokenizer(),
        text_encoder=t5(),
        vae=diffusers.AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
        ).eval(),
        transformer=diffusers.LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=32,
            num_layers=1,
            caption_channels=16,
        ).eval(),
        scheduler=flow(),
    )


def mochi() -> Any:
    """Mochi 1."""
    return diffusers.MochiPipeline(
        tokenizer=word_tokenizer(),
        text_encoder=t5(),
        vae=diffusers.AutoencoderKLMochi(
            latent_channels=12,
            encoder_block_out_channels=(32, 32, 32, 32),
            decoder_block_out_channels=(32, 32, 32, 32),
            layers_per_block=(1, 1, 1, 1, 1),
        ).eval(),
        transformer=diffusers.MochiTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            pooled_projection_dim=16,
            in_channels=12,
            text_embed_dim=16,
            time_embed_dim=4,
        ).eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    )


def kandinsky5() -> Any:
    """Kandinsky 5, whose text encoder sees the padding that the longest prompt of the batch makes."""
    pipeline = diffusers.Kandinsky5T2VPipeline(
        tokenizer=word_tokenizer(),
        text_encoder=decoder("Qwen2"),
        tokenizer_2=word_tokenizer(model_max_length=77),
        text_encoder_2=clip(32),
        vae=hunyuan_vae(),
        transformer=diffusers.Kandinsky5Transformer3DModel(
            in_visual_dim=4,
            out_visual_dim=4,
            in_text_dim=16,
            in_text_dim2=32,
            time_dim=32,
            model_dim=48,
            ff_dim=128,
            num_text_blocks=1,
            num_visual_blocks=1,
            axes_dims=(8, 8, 8),
        ).eval(),
        scheduler=flow(7.0),
    )
    head, tail = pipeline.prompt_template.split("{}")
    pipeline.register_modules(tokenizer=template_tokenizer(head, 128, tail, 1))
    return pipeline


def sana() -> Any:
    """SANA-Video, whose call says frames."""
    return diffusers.SanaVideoPipeline(
        tokenizer=word_tokenizer(),
        text_encoder=decoder("Gemma2"),
        vae=wan_vae(),
        transformer=diffusers.SanaVideoTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            num_cross_attention_heads=2,
            cross_attention_head_dim=12,
            cross_attention_dim=24,
            caption_channels=16,
            sample_size=8,
            rope_max_seq_len=32,
        ).eval(),
        scheduler=flow(),
    )


def image_model(folder: Path) -> Path:
    """Save a Stable Diffusion 1.5 folder, as AnimateDiff is put together from."""
    torch.manual_seed(0)
    widths = {"block_out_channels": (8, 8), "norm_num_groups": 2}
    diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            **widths,
        ).eval(),
        text_encoder=clip(),
        tokenizer=word_tokenizer(model_max_length=77),
        unet=diffusers.UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            **widths,
        ).eval(),
        scheduler=diffusers.DDIMScheduler(beta_schedule="linear", clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
    ).save_pretrained(folder / "image")
    diffusers.MotionAdapter(
        block_out_channels=(8, 8), motion_layers_per_block=1, motion_norm_num_groups=2, motion_num_attention_heads=2
    ).save_pretrained(folder / "motion")
    return folder


PIPELINES: dict[str, Callable[[], Any]] = {
    "wan": wan,
    "wan22": wan22,
    "skyreels": skyreels,
    "hunyuan": hunyuan,
    "hunyuan15": hunyuan15,
    "cogvideox": cogvideox,
    "ltx": ltx,
    "mochi": mochi,
    "kandinsky5": kandinsky5,
    "sana": sana,
}


def save(name: str, folder: Path) -> Path:
    """Make a pipeline and save it."""
    torch.manual_seed(0)
    pipeline = PIPELINES[name]()
    denoiser = pipeline.transformer
    with torch.no_grad():
        for weight in denoiser.parameters():
            if not weight.any():
                weight.normal_(std=0.1)
    pipeline.save_pretrained(folder)
    return folder
