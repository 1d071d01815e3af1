"""Stage 1's choice between two rewrites. B questions, T tokens, L labels."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAUROC, BinaryCalibrationError

from models.base import Batch
from models.sft import SFTModule

NUM_BINS = 10  # of the calibration error


class DiscriminatorModule(SFTModule):
    """Cross-entropy over the first tokens of the two labels (RAPO++ section 3.3, https://arxiv.org/abs/2510.20206).

    Validation and test log, each over their whole split: loss; accuracy; ``auroc``, the area under the receiver
    operating characteristic; ``calibration_error``, the expected one over ten bins of equal width (Guo et al. 2017,
    Eq. 3, https://arxiv.org/abs/1706.04599); and ``position_bias``, by how much the mean probability of the first
    label exceeds the share of questions whose answer it is.

    Args:
        pretrained: Hugging Face id or directory of a causal language model whose tokenizer has a chat template.
        **kwargs: see :class:`~models.base.LoRAModule`.
    """

    def __init__(self, pretrained: str, **kwargs: Any) -> None:
        super().__init__(pretrained, **kwargs)
        # Averages over batches would not be those over the split.
        metrics = MetricCollection({"auroc": BinaryAUROC(), "calibration_error": BinaryCalibrationError(NUM_BINS)})
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Score ``labels`` ``(B,)`` as answers to ``input_ids`` ``(B, T)``."""
        return choice_scores(self.label_logits(batch), batch["labels"])

    def label_logits(self, batch: Batch) -> Tensor:
        """Logits ``(B, L)`` of the labels' first tokens ``label_ids`` ``(B, L)`` as the answer's first."""
        # Padding is on the left; positions count what is not padding, as in generation.
        positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        logits = self.network(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            position_ids=positions,
            logits_to_keep=1,
            use_cache=False,
        ).logits
        return logits[:, -1].gather(-1, batch["label_ids"]).float()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log ``val/*``."""
        self._measure("val", batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log ``test/*``."""
        self._measure("test", batch, self.test_metrics)

    def _measure(self, split: str, batch: Batch, metrics: MetricCollection) -> None:
        logits = self.label_logits(batch)
        scores = choice_scores(logits, batch["labels"])
        self.log_dict(
            {f"{split}/{name}": value for name, value in scores.items()}, batch_size=len(logits), sync_dist=True
        )
        metrics.update(logits.softmax(-1)[:, 0], (batch["labels"] == 0).long())
        self.log_dict(metrics)  # computed once, at the end of the epoch


def choice_scores(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Loss, accuracy and position bias of answers.

    Args:
        logits: ``(B, L)``.
        labels: ``(B,)``, the index of the right label.

    Returns:
        Scalars, means over the batch; ``loss`` in nats.
    """
    return {
        "loss": F.cross_entropy(logits, labels),
        "accuracy": (logits.argmax(-1) == labels).float().mean(),
        "position_bias": (logits.softmax(-1)[:, 0] - (labels == 0).float()).mean(),
    }
