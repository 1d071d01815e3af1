"""Stage 1's choice between two rewrites. B questions, T tokens, L labels."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAUROC, BinaryCalibrationError

from models.base import Batch, Mean
from models.sft import SFTModule

NUM_BINS = 10  # of the calibration error
UNCOUNTED = -1  # label of what is not scored


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
        metrics = MetricCollection(
            {
                "auroc": BinaryAUROC(ignore_index=UNCOUNTED),
                "calibration_error": BinaryCalibrationError(NUM_BINS, ignore_index=UNCOUNTED),
            }
        )
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    def measure(self, batch: Batch) -> dict[str, Mean]:
        """Score ``labels`` ``(B,)`` as answers to ``input_ids`` ``(B, T)``, where ``counted`` ``(B,)`` is 1."""
        return self._means(self.label_logits(batch), batch)

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
        """Add a batch to ``val/*``."""
        self._evaluate(batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to ``test/*``."""
        self._evaluate(batch, self.test_metrics)

    def _means(self, logits: Tensor, batch: Batch) -> dict[str, Mean]:
        scores = choice_scores(logits, batch["labels"])
        return {name: Mean.over(values, batch["counted"]) for name, values in scores.items()}

    def _evaluate(self, batch: Batch, metrics: MetricCollection) -> None:
        logits = self.label_logits(batch)
        self._add(self._means(logits, batch))
        is_first = torch.where(batch["counted"].bool(), (batch["labels"] == 0).long(), UNCOUNTED)
        metrics.update(logits.softmax(-1)[:, 0], is_first)
        self.log_dict(metrics)  # computed once, at the end of the epoch


def choice_scores(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Loss, accuracy and position bias of answers.

    Args:
        logits: ``(B, L)``.
        labels: ``(B,)``, the index of the right label.

    Returns:
        For each question, ``(B,)``; ``loss`` in nats.
    """
    return {
        "loss": F.cross_entropy(logits, labels, reduction="none"),
        "accuracy": (logits.argmax(-1) == labels).float(),
        "position_bias": logits.softmax(-1)[:, 0] - (labels == 0).float(),
    }
