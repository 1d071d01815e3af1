"""Pure tensor functions. B sequences, T tokens, V vocabulary."""

import torch.nn.functional as F
from torch import Tensor


def sequence_log_probs(logits: Tensor, input_ids: Tensor, mask: Tensor) -> Tensor:
    """Sum the log-probabilities of the masked-in tokens.

    Args:
        logits: ``(B, T, V)``; position ``t`` predicts token ``t + 1``.
        input_ids: ``(B, T)``.
        mask: ``(B, T)``, 1 on completion tokens.

    Returns:
        ``(B,)`` in nats.
    """
    losses = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), input_ids[:, 1:], reduction="none")
    return -(losses * mask[:, 1:]).sum(-1)


def token_accuracy(logits: Tensor, input_ids: Tensor, mask: Tensor) -> Tensor:
    """Share of the masked-in tokens that are the most probable ones.

    Args:
        logits: ``(B, T, V)``; position ``t`` predicts token ``t + 1``.
        input_ids: ``(B, T)``.
        mask: ``(B, T)``, 1 on completion tokens.

    Returns:
        Scalar in [0, 1].
    """
    right = logits[:, :-1].argmax(-1) == input_ids[:, 1:]
    return (right * mask[:, 1:]).sum() / mask[:, 1:].sum()
