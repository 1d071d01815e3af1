"""Pure tensor functions. B sequences, T tokens, N scored tokens, H hidden width, V vocabulary."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

TILE = 2**22  # logits held at once by :class:`LinearLogProbs`


def token_log_probs(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Score tokens.

    Args:
        logits: ``(N, V)``.
        targets: ``(N,)``.

    Returns:
        Log-probabilities in nats and whether the token is the most probable one, each ``(N,)``.
    """
    log_probs = -F.cross_entropy(logits.float(), targets, reduction="none")
    return log_probs, logits.argmax(-1) == targets


class LinearLogProbs(Function):
    """:func:`token_log_probs` of ``hidden @ weight.T`` that never holds all logits, for weights that do not learn.

    The gradient of a token's log-probability with respect to its hidden state is the target's row of the weights less
    the mean row under the predicted distribution. It is as wide as the hidden state, so it is computed while a tile of
    logits is at hand and kept in their stead (the idea of Liger Kernel, Hsu et al. 2024, section 3.2,
    https://arxiv.org/abs/2410.10989, for a loss whose weights per token are known only later).
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Score tokens.

        Args:
            ctx: keeps the gradient for the backward pass.
            hidden: ``(N, H)``.
            weight: ``(V, H)``.
            targets: ``(N,)``.

        Returns:
            See :func:`token_log_probs`.
        """
        log_probs = hidden.new_empty(len(hidden), dtype=torch.float32)
        is_best = torch.empty_like(targets, dtype=torch.bool)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        size = max(1, TILE // len(weight))
        for begin in range(0, len(hidden), size):
            rows = slice(begin, begin + size)
            logits = (hidden[rows] @ weight.T).float()
            target = logits.gather(1, targets[rows, None])
            best = logits.amax(1, keepdim=True)
            is_best[rows] = (target >= best).squeeze(1)
            odds = logits.sub_(best).exp_()
            total = odds.sum(1, keepdim=True)
            log_probs[rows] = (target - best - total.log()).squeeze(1)
            if gradient is not None:
                gradient[rows] = weight[targets[rows]] - (odds.to(weight.dtype) @ weight) / total.to(weight.dtype)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(is_best)
        return log_probs, is_best

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        """Scale each token's kept gradient."""
        (kept,) = ctx.saved_tensors
        return kept * gradient[:, None].to(kept.dtype), None, None


def sequence_log_probs(log_probs: Tensor, scored: Tensor, within: Tensor) -> Tensor:
    """Add up the log-probabilities of a sequence's tokens.

    Args:
        log_probs: ``(N,)``, one per scored token, in row order.
        scored: ``(B, T)``, true on scored tokens.
        within: ``(B, T)``, true on those to add.

    Returns:
        ``(B,)`` in nats.
    """
    placed = log_probs.new_zeros(scored.shape).masked_scatter(scored, log_probs)
    return (placed * within).sum(-1)


def dpo_loss(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> dict[str, Tensor]:
    """Direct preference optimisation (Rafailov et al. 2023, Eq. 7, https://arxiv.org/abs/2305.18290).

    Args:
        chosen: ``(B,)`` log-probabilities of the chosen answers under the policy, in nats.
        rejected: the same of the rejected answers.
        reference_chosen: the same under the reference, no gradient.
        reference_rejected: the same.
        beta: strength of the pull towards the reference.

    Returns:
        For each pair, ``(B,)``, under TRL's names: ``loss``, ``rewards/chosen``, ``rewards/rejected``,
        ``rewards/margins`` and ``rewards/accuracies``.
    """
    reward_chosen, reward_rejected = beta * (chosen - reference_chosen), beta * (rejected - reference_rejected)
    margins = reward_chosen - reward_rejected
    return {
        "loss": -F.logsigmoid(margins),
        "rewards/chosen": reward_chosen.detach(),
        "rewards/rejected": reward_rejected.detach(),
        "rewards/margins": margins.detach(),
        "rewards/accuracies": (margins.detach() > 0).float(),
    }
