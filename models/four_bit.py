"""Frozen weights in four bits, for adapters on a base that the GPU would not hold otherwise."""

from importlib.util import find_spec

import torch
from transformers import BitsAndBytesConfig


def four_bit_config() -> BitsAndBytesConfig:
    """Quantise as QLoRA does: NF4, its scales quantised again (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314).

    Products are computed in torch's default precision, which is the trainer's while weights are loaded.

    Raises:
        ValueError: if bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            "four_bit needs bitsandbytes, which is not installed; `pip install '.[qlora]'`, or set "
            "model.init_args.four_bit to false."
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.get_default_dtype(),
    )
