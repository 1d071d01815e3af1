"""One command line for every objective: the YAML names the module and the data."""

import pickle
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import get_loader, set_loader
from lightning import pytorch as pl
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from pydantic import ConfigDict, with_config
from safetensors import SafetensorError
from typing_extensions import TypedDict
from yaml import YAMLError

from data_modules import JSONLDataModule
from data_modules.config_tree import load_tree
from data_modules.exports import replaced, require_replaceable
from data_modules.schema import check
from models import LoRAModule, TrainingModule
from models.compatibility import write_for_older_readers
from train import hub
from train.callbacks import BestCheckpoint, LastCheckpoint, LogConfig, RandomState, ValidationScores
from train.cards import ModelCard
from train.chat_template import adapt_chat_template, set_chat_template
from train.progress import RunProgress
from train.quiet import is_verbose, silence_loggers
from train.resumed_run import keep_run_id

YAML = get_loader("yaml")
DEFAULTS = Path(__file__).parents[1] / "configs" / "defaults.yaml"


class Trainer(pl.Trainer):
    """The Lightning trainer plus one verb."""

    def export(
        self,
        model: TrainingModule,
        output_dir: Path,
        ckpt_path: Path | None = None,
        merge: bool = True,
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        evaluation: Path | None = None,
        rewrites: Path | None = None,
        push_to_hub: str | None = None,
        datamodule: LightningDataModule | None = None,
    ) -> None:
        """Write a directory that the library the network comes from can load.

        Args:
            model: the objective that was trained.
            output_dir: new directory, or one that an export wrote, which is replaced.
            ckpt_path: Lightning checkpoint; ``None`` exports the initial weights.
            merge: fold the adapters into the base weights; otherwise write the adapters alone.
            dtype: precision of the weights; ``None`` keeps that of the model that was trained on.
            evaluation: ``summary.json`` of an evaluation, for the model card.
            rewrites: what ``collect rewrite --format jsonl`` wrote with this rewriter, for the card's gate pass rate.
            push_to_hub: repository of the Hugging Face Hub to upload the directory to, as ``owner/name``.
            datamodule: what it was trained on, for the model card.

        Raises:
            FileNotFoundError: if the training records, the evaluation or the rewrites are missing.
            OSError: if the directory can't be written.
            ValueError: if the directory holds anything that no export wrote; if the checkpoint is another module's, was
                trained on other records, or can't be pushed; or if what was written is not what was trained.
        """
        require_replaceable(output_dir)
        if push_to_hub is not None:
            require_loadable_base(model, merge)
            hub.require_access(push_to_hub)
        checkpoint = None if ckpt_path is None else load_checkpoint(ckpt_path)
        card = None
        if isinstance(model, LoRAModule) and isinstance(datamodule, JSONLDataModule):
            chat_template = datamodule.load_tokenizer().chat_template
            card = ModelCard(model, datamodule, merge, checkpoint, evaluation, rewrites)
        elif evaluation is not None or rewrites is not None:
            raise ValueError("evaluation and rewrites go into a model card, which only exports of text models have.")
        if isinstance(model, LoRAModule):
            model.four_bit = False  # adapters are exported for, or folded into, the weights as they are
        model.configure_model()
        if checkpoint is not None:
            model.on_load_checkpoint(checkpoint)
            model.load_state_dict(checkpoint["state_dict"], strict=model.strict_loading)
        with replaced(output_dir) as directory:
            try:
                model.export(directory, merge, None if dtype is None else getattr(torch, dtype))
            except SafetensorError as error:  # which is no OSError
                raise OSError(f"{output_dir} can't be written ({error}); name another output_dir.") from error
            if card is not None:
                set_chat_template(directory, chat_template)
                if card.asked_for_captions:
                    adapt_chat_template(directory)
                write_for_older_readers(directory)
                card.write(directory, push_to_hub or str(output_dir))
        if push_to_hub is not None:
            hub.push(output_dir, push_to_hub, f"{type(model).__name__}, {ckpt_path or 'initial weights'}")


def require_loadable_base(model: TrainingModule, merge: bool) -> None:
    """Refuse to push adapters whose base nobody else has.

    Raises:
        ValueError: if the base is a directory of this machine.
    """
    if not merge and isinstance(model, LoRAModule) and model.lora is not None and Path(model.pretrained).is_dir():
        raise ValueError(
            f"adapters on the directory {model.pretrained} can't be loaded from the Hub; push the merged form, or "
            "train on a model of the Hub."
        )


class CLI(LightningCLI):
    """``fit``, ``validate``, ``test`` and ``export``."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Keep the verbs the objectives implement and add ``export``."""
        native = LightningCLI.subcommands()
        kept = {name: native[name] for name in ("fit", "validate", "test")}
        return {**kept, "export": {"model", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give values that must agree one home."""
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.add_lightning_class_args(LastCheckpoint, "resume")
        # Data modules of text take `pretrained`, whose tokenizer they use; others have no such argument and no link.
        parser.link_arguments("model.init_args.pretrained", "data.init_args.pretrained")
        parser.link_arguments("trainer.default_root_dir", "trainer.logger.init_args.save_dir")
        parser.link_arguments("trainer.default_root_dir", "checkpoint.dirpath", compute_fn=_checkpoints_of)
        parser.link_arguments("trainer.default_root_dir", "resume.dirpath", compute_fn=_checkpoints_of)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Show a run's progress in steps, in place of Lightning's bar of epochs and its summary of the network.

        Without checkpointing there are no callbacks that write checkpoints either.
        """
        asked = self.config[self.subcommand]["trainer"]
        if asked["enable_checkpointing"] is False:
            self._parser(self.subcommand).callback_keys.clear()
        if asked["enable_progress_bar"] is not False and not is_verbose():
            self.trainer_defaults["callbacks"].append(RunProgress())
            kwargs["enable_progress_bar"] = False
        if asked["enable_model_summary"] is None and not is_verbose():
            kwargs["enable_model_summary"] = False
        trainer = super().instantiate_trainer(**kwargs)
        silence_loggers(trainer.loggers)
        return trainer

    def before_fit(self) -> None:
        """Name the W&B run before anything is logged."""
        keep_run_id(self.trainer, resumed=self.config["fit"]["ckpt_path"] is not None)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and refuse a checkpoint that cannot be read before anything else is loaded."""
        super().parse_arguments(parser, args)
        ckpt_path = self.config[self.config.subcommand].get("ckpt_path")
        if ckpt_path is not None and str(ckpt_path) not in {"best", "last"}:
            load_checkpoint(Path(ckpt_path))


@with_config(ConfigDict(extra="allow", strict=True, arbitrary_types_allowed=True))
class Checkpoint(TypedDict):
    """What is read here of a Lightning checkpoint; Lightning reads the rest."""

    global_step: int
    state_dict: dict[str, torch.Tensor]
    callbacks: dict[str, dict[str, Any]]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a Lightning checkpoint without unpickling code; its tensors stay on disk until they are used.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file and the remedy, if it is not a whole checkpoint.
    """
    if not path.is_file():
        others = ", ".join(sorted(other.name for other in path.parent.glob("*.ckpt"))) or "no checkpoints"
        raise FileNotFoundError(
            f"{path} does not exist; `python -m train fit` writes best.ckpt after validations and last.ckpt as it "
            f"goes. The folder has {others}."
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} is not a whole checkpoint ({reason}); give another one of {path.parent} or start again without it."
        ) from error
    return {**check(checkpoint, Checkpoint, str(path), "give a checkpoint that `python -m train fit` wrote.")}


def main(args: ArgsType = None) -> CLI:
    """Parse, instantiate, run."""
    set_loader("yaml", partial(load_tree, YAML), (YAMLError,))
    per_command = {"default_config_files": [str(DEFAULTS)]}
    return CLI(
        model_class=TrainingModule,
        datamodule_class=LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        trainer_class=Trainer,
        trainer_defaults={"callbacks": [RandomState(), ValidationScores()]},
        save_config_callback=LogConfig,
        save_config_kwargs={"overwrite": True},
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,  # modules save no hyperparameters; on, it calls what jsonargparse 5 removes
        seed_everything_default=0,
        parser_kwargs={name: dict(per_command) for name in CLI.subcommands()},
        args=args,
    )


def _checkpoints_of(root: str | None) -> str:
    return str(Path(root or ".") / "checkpoints")
