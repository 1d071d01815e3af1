"""Exports that older versions of transformers read as the newest does: Wan2.1's environment and many nodes have 4.4x.

Version 5 renamed settings. An older version does not know the new names and takes defaults in their place, without a
word: rotary embeddings of base 10000, single precision. So both names are written; the newest reads its own.
"""

import json
from pathlib import Path
from typing import Any

ROPE_IN_CONFIG = ("rope_theta", "partial_rotary_factor")
# Layers of two kinds, as Gemma 3 has: the older names of what each kind's rotary embeddings are.
FULL, SLIDING = "full_attention", "sliding_attention"


def write_for_older_readers(directory: Path) -> None:
    """Add the older names of what an exported folder's settings say; done twice, it changes nothing more."""
    config, tokenizer = directory / "config.json", directory / "tokenizer_config.json"
    if config.is_file():  # adapters have none
        _write(config, older_config(_read(config)))
    _write(tokenizer, older_tokenizer_config(_read(tokenizer)))


def older_config(config: dict[str, Any]) -> dict[str, Any]:
    """A network's configuration with the older names beside the new ones."""
    config = {name: older_config(value) if _is_config(value) else value for name, value in config.items()}
    if "dtype" in config:
        config["torch_dtype"] = config["dtype"]
    rope = config.get("rope_parameters")
    if not rope:
        return config
    if FULL in rope:
        if SLIDING in rope:
            config["rope_local_base_freq"] = rope[SLIDING]["rope_theta"]
        rope = rope[FULL]
    config |= {name: rope[name] for name in ROPE_IN_CONFIG if name in rope}
    scaling = {name: value for name, value in rope.items() if name not in ROPE_IN_CONFIG}
    if scaling.get("rope_type", "default") != "default":
        config["rope_scaling"] = scaling
    return config


def older_tokenizer_config(config: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer's configuration under names that all versions know."""
    config = dict(config)
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    return config


def _is_config(value: Any) -> bool:
    return isinstance(value, dict) and "model_type" in value


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _write(path: Path, config: dict[str, Any]) -> None:
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
