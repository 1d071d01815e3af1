"""From a checkpoint's name to a pipeline of diffusers, with each part in its precision."""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline, ModularPipeline
from diffusers.quantizers import PipelineQuantizationConfig

Precision = Literal["float32", "bfloat16", "float16"]

INDEXES = ("model_index.json", "modular_model_index.json")
FLOAT32_VAES = {"AutoencoderKLWan"}  # of Wan, SkyReels-V2 and SANA-Video: their makers run them in float32


@dataclass(frozen=True)
class Component:
    """A part of the pipeline that comes from elsewhere.

    Args:
        class_name: class of diffusers or transformers, for instance ``MotionAdapter``.
        pretrained: Hugging Face id or directory.
        subfolder: where in it the part is.
    """

    class_name: str
    pretrained: str
    subfolder: str | None = None


@dataclass(frozen=True)
class Adapter:
    """LoRA weights for the video model, for instance those that let it work in few steps.

    Args:
        pretrained: Hugging Face id, directory or file.
        weight_name: the file in it, where there are several.
        scale: strength.
        load_kwargs: further arguments of ``load_lora_weights``, as ``load_into_transformer_2: true`` for Wan2.2.
    """

    pretrained: str
    weight_name: str | None = None
    scale: float = 1.0
    load_kwargs: dict[str, Any] = field(default_factory=dict)


def local_folder(pretrained: str, load_kwargs: Mapping[str, Any]) -> Path:
    """Find a pipeline's directory, downloading it where it is an id.

    Raises:
        FileNotFoundError: if ``pretrained`` looks like a directory and holds no pipeline.
    """
    folder = Path(pretrained)
    if any((folder / index).is_file() for index in INDEXES):
        return folder
    if folder.exists() or pretrained.count("/") != 1 or pretrained.startswith((".", "/", "~")):
        raise FileNotFoundError(f"{pretrained} is no diffusers pipeline: it has no model_index.json.")
    return Path(DiffusionPipeline.download(pretrained, **load_kwargs))


def load_pipeline(
    folder: Path,
    pipeline_class: str | None,
    dtype: Precision | Mapping[str, Precision],
    components: Mapping[str, Component | None],
    quantization: Mapping[str, Any] | None,
    load_kwargs: Mapping[str, Any],
) -> Any:
    """Load a pipeline onto the CPU.

    Raises:
        ValueError: if this version of diffusers lacks the class, the class lacks a component, or a package is missing.
    """
    plain, modular = (folder / name for name in INDEXES)
    index = json.loads((plain if plain.is_file() else modular).read_text())
    precisions = precision_of_parts(index, dtype)
    if not plain.is_file():
        if pipeline_class or components or quantization:
            raise ValueError(f"{folder} is a modular pipeline, which takes no other class, components or quantization.")
        pipeline = ModularPipeline.from_pretrained(str(folder), **load_kwargs)
        pipeline.load_components(dtype=precisions)
        return pipeline
    kind = named_class(pipeline_class or index["_class_name"])
    parts = set(inspect.signature(kind.__init__).parameters) - {"self"}
    unknown = components.keys() - parts
    if unknown:
        raise ValueError(f"{kind.__name__} has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(parts))}.")
    made = {
        name: load_component(part, precisions.get(name, precisions["default"])) for name, part in components.items()
    }
    config = None if quantization is None else PipelineQuantizationConfig(**quantization)
    try:
        return kind.from_pretrained(folder, dtype=precisions, quantization_config=config, **made, **load_kwargs)
    except ImportError as error:
        raise ValueError(f"{kind.__name__} needs a package that is not installed: {error}") from error


def precision_of_parts(index: Mapping[str, Any], dtype: Precision | Mapping[str, Precision]) -> dict[str, torch.dtype]:
    """Precision by component; ``default`` is that of all others."""
    told: dict[str, Precision] = {"default": "float32"}
    if not isinstance(dtype, str):
        told |= dtype
    else:
        told["default"] = dtype
        if (index.get("vae") or [None, None])[1] in FLOAT32_VAES:
            told["vae"] = "float32"
    return {name: getattr(torch, precision) for name, precision in told.items()}


def named_class(name: str) -> Any:
    """Find a class of diffusers or transformers.

    Raises:
        ValueError: if neither has it.
    """
    for library in (diffusers, transformers):
        if isinstance(name, str) and name in dir(library):
            return getattr(library, name)
    raise ValueError(
        f"neither diffusers {diffusers.__version__} nor transformers {transformers.__version__} has {name}."
    )


def load_component(part: Component | None, dtype: torch.dtype) -> Any:
    """Load one part of a pipeline; ``None`` leaves it out."""
    if part is None:
        return None
    return named_class(part.class_name).from_pretrained(part.pretrained, subfolder=part.subfolder, dtype=dtype)


def set_scheduler(pipeline: Any, settings: Mapping[str, Any]) -> None:
    """Change the scheduler's settings; ``class_name`` among them changes its class.

    Raises:
        ValueError: if the class does not take a setting, which diffusers itself would ignore.
    """
    changes = dict(settings)
    kind = named_class(changes.pop("class_name")) if "class_name" in changes else type(pipeline.scheduler)
    known = set(inspect.signature(kind.__init__).parameters) - {"self"}
    unknown = changes.keys() - known
    if unknown:
        raise ValueError(f"{kind.__name__} takes no {', '.join(sorted(unknown))}; it takes {', '.join(sorted(known))}.")
    set_component(pipeline, "scheduler", kind.from_config(pipeline.scheduler.config, **changes))


def set_component(pipeline: Any, name: str, value: Any) -> None:
    """Put another part in the place of one."""
    if isinstance(pipeline, ModularPipeline):
        pipeline.update_components(**{name: value})
    else:
        setattr(pipeline, name, value)


def add_adapters(pipeline: Any, adapters: Sequence[Adapter]) -> None:
    """Load LoRA weights beside those of the video model.

    Raises:
        ValueError: if diffusers has no adapters for such a pipeline.
    """
    if not adapters:
        return
    if "load_lora_weights" not in dir(pipeline):
        raise ValueError(f"{type(pipeline).__name__} takes no LoRA adapters.")
    names = [f"lora_{number}" for number in range(len(adapters))]
    for name, adapter in zip(names, adapters, strict=True):
        pipeline.load_lora_weights(
            adapter.pretrained, weight_name=adapter.weight_name, adapter_name=name, **adapter.load_kwargs
        )
    pipeline.set_adapters(names, [adapter.scale for adapter in adapters])
