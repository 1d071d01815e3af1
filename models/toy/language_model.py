"""The toy language model before training: a small Qwen2 with random weights and a tokenizer of its own."""

import json
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)

CONTEXT = 2048
# One marker opens a turn and another closes it; a prompt is cut off where the assistant's answer begins.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Learn byte-level pairs from texts; words of the texts become one token, any other text falls back to bytes."""
    tokenizer = Qwen2Tokenizer().train_new_from_iterator(
        texts, vocab_size, new_special_tokens=["<|im_start|>", "<|im_end|>"], show_progress=False
    )
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.model_max_length = CONTEXT
    return tokenizer


def random_model(
    tokenizer: PreTrainedTokenizerBase, width: int = 128, num_layers: int = 4, seed: int = 0
) -> Qwen2ForCausalLM:
    """Build the network that the toy language model is trained from.

    Its embeddings start far apart: from the usual small ones it learns to tell values apart long before it learns to
    copy one wording rather than its synonym.
    """
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 5 // 2,
        num_hidden_layers=num_layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.5)
    return model


def lm(
    output_dir: Path,
    data: Path = Path("outputs/toy_lm/data/train.jsonl"),
    vocab_size: int = 2048,
    width: int = 128,
    num_layers: int = 4,
    seed: int = 0,
) -> None:
    """Write the toy language model before training, with a tokenizer learned from its training texts.

    Args:
        output_dir: directory to create.
        data: chat examples, one JSON object with ``prompt`` and ``completion`` a line.
        vocab_size: most tokens the vocabulary may hold.
        width: size of the hidden states, a multiple of 32.
        num_layers: transformer layers.
        seed: decides the random weights.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if not data.is_file():
        raise FileNotFoundError(f"{data} does not exist; `python -m data_modules.toyworld.tasks` writes it.")
    records = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    turns = [turn for record in records for turn in (*record["prompt"], *record["completion"])]
    texts = [f"{turn['role']}\n{turn['content']}" for turn in turns]
    tokenizer = train_tokenizer(texts, vocab_size)
    random_model(tokenizer, width, num_layers, seed).save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)


def half(pretrained: Path, output_dir: Path) -> None:
    """Write a language model again in half precision, which is what is committed.

    Args:
        pretrained: directory with weights and tokenizer.
        output_dir: directory to create.

    Raises:
        FileNotFoundError: if there is no such directory.
    """
    if not pretrained.is_dir():
        raise FileNotFoundError(f"{pretrained} does not exist; `python -m train export` writes it.")
    AutoModelForCausalLM.from_pretrained(pretrained, dtype=torch.float16).save_pretrained(output_dir)
    AutoTokenizer.from_pretrained(pretrained).save_pretrained(output_dir)
