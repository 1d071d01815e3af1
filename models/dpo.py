"""Preference optimisation of a rewriter: stage 3, on mined pairs. B pairs, T tokens."""

import hashlib
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from models.base import Batch, Mean
from models.functional import dpo_loss, sequence_log_probs
from models.sft import SFTModule


class DPOModule(SFTModule):
    """DPO whose reference policy is the same network with its adapters switched off.

    Started from the merged export of supervised fine-tuning, the reference is exactly that policy, and the DPO loss
    begins at ln 2. Every dropout is off, or policy and reference would differ by chance.

    Args:
        beta: strength of the pull towards the reference.
        sft_weight: weight of the chosen answers' cross-entropy per token, which keeps them likely in themselves
            (the RPO term of Pang et al. 2024, Eq. 1, https://arxiv.org/abs/2404.19733, averaged over the optimiser
            step).
        **kwargs: see :class:`~models.sft.SFTModule`.

    Raises:
        ValueError: if there are no adapters, which would leave no reference policy, or they have dropout.
    """

    def __init__(self, beta: float = 0.1, sft_weight: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.lora is None:
            raise ValueError("DPOModule needs `lora`: its reference is the network without adapters.")
        if self.lora.dropout:
            raise ValueError(f"DPOModule trains without dropout; set lora.dropout to 0, got {self.lora.dropout}.")
        if beta <= 0 or sft_weight < 0:
            raise ValueError(f"beta must be above 0 and sft_weight at least 0, got {beta} and {sft_weight}.")
        self.beta = beta
        self.sft_weight = sft_weight

    def load_backbone(self) -> PreTrainedModel:
        """Load the language model and switch its dropout off.

        Raises:
            ValueError: if it takes no attention mask of our own, which two answers to one prompt in one row need.
        """
        model = super().load_backbone()
        attention = model.config._attn_implementation
        if not self.separates or attention not in ("eager", "sdpa"):
            raise ValueError(
                f"DPOModule needs a network whose attention takes a mask, sdpa or eager; {self.pretrained} is a "
                f"{type(model).__name__} with {attention}."
            )
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
            for name, value in list(vars(part).items()):  # attention keeps its probability as a number
                if "dropout" in name and isinstance(value, float):
                    setattr(part, name, 0.0)
        return model

    def measure(self, batch: Batch) -> dict[str, Mean]:
        """Compare policy and reference on both answers.

        Args:
            batch: see :meth:`pair_log_probs`; the reference's ``ref_chosen_logps`` and ``ref_rejected_logps``,
                ``(B,)``, in nats, single precision seen as integers; and ``counted``, ``(B,)``, 1 for pairs that are
                scored.

        Returns:
            What :func:`~models.functional.dpo_loss` does, its ``loss`` as ``dpo_loss``, and ``sft_loss``.
        """
        chosen, rejected = self.pair_log_probs(batch)
        reference = [batch[f"ref_{role}_logps"].view(torch.float32) for role in ("chosen", "rejected")]
        values = dpo_loss(chosen, rejected, reference[0], reference[1], self.beta)
        counted = batch["counted"]
        return {
            "dpo_loss": Mean.over(values.pop("loss"), counted),
            "sft_loss": Mean(-(chosen * counted).sum(), (batch["chosen_mask"].sum(1) * counted).sum(), "tokens"),
            **{name: Mean.over(value, counted) for name, value in values.items()},
        }

    def objective(self, means: dict[str, Tensor]) -> Tensor:
        """Sum of ``dpo_loss`` and the weighted ``sft_loss``."""
        return means["dpo_loss"] + self.sft_weight * means["sft_loss"]

    def pair_log_probs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probabilities of chosen and rejected answers, each ``(B,)``, in nats.

        Args:
            batch: ``input_ids``, ``position_ids``, ``chosen_mask`` and ``rejected_mask``, ``(B, T)``: a pair in one
                row, each answer after a copy of the prompt's last token; and ``attention_mask``, ``(B, 1, T, T)``,
                true where a token sees another.

        Raises:
            ValueError: if the row is longer than the network's attention window.
        """
        assert self.model is not None
        window = getattr(self.model.config.get_text_config(decoder=True), "sliding_window", None)
        length = batch["input_ids"].shape[1]
        if window is not None and length > window:
            raise ValueError(
                f"a pair of {length} tokens does not fit the attention window of {self.pretrained}, {window} tokens; "
                "lower data.init_args.max_length."
            )
        completion = batch["chosen_mask"] + batch["rejected_mask"]
        seen = batch["attention_mask"]
        if self.model.config._attn_implementation == "eager":  # which adds the mask to its scores
            seen = (torch.finfo(self.model.dtype).min * ~seen).to(self.model.dtype)
        log_probs, _ = self.score({**batch, "completion_mask": completion, "attention_mask": seen})
        scored = completion[:, 1:].bool()
        chosen, rejected = (batch[name][:, 1:] for name in ("chosen_mask", "rejected_mask"))
        return sequence_log_probs(log_probs, scored, chosen), sequence_log_probs(log_probs, scored, rejected)

    @torch.no_grad()
    def reference_log_probs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """:meth:`pair_log_probs` of the reference policy, in the trainer's precision."""
        assert isinstance(self.model, PeftModel)
        with self.trainer.precision_plugin.forward_context(), self.model.disable_adapter():
            return self.pair_log_probs({name: value.to(self.device) for name, value in batch.items()})

    def reference_fingerprint(self) -> str:
        """Hash what decides the reference's log-probabilities: its weights and the precision it is run in."""
        assert self.model is not None
        digest = hashlib.blake2b(str(self.trainer.precision_plugin.precision).encode(), digest_size=16)
        for name, value in self.model.named_parameters():
            if "lora_" not in name:
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                whole: Tensor = value.full_tensor() if isinstance(value, DTensor) else value  # sharded over devices
                digest.update(whole.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()
