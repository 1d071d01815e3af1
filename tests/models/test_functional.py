"""The mathematics, by hand and against TRL."""

import math

import pytest
import torch
from trl.trainer.utils import selective_log_softmax

from models import functional
from models.functional import LinearLogProbs, dpo_loss, sequence_log_probs, token_log_probs


def test_log_probs_by_hand() -> None:
    # The token is predicted with odds 3 to 1, so with log(3/4) or log(1/4).
    logits = torch.tensor([[math.log(3.0), 0.0]])
    for token, probability in ((0, 3 / 4), (1, 1 / 4)):
        log_probs, is_best = token_log_probs(logits, torch.tensor([token]))
        torch.testing.assert_close(log_probs, torch.tensor([math.log(probability)]))
        assert is_best.item() == (token == 0)


def test_scores_per_token_equal_trl_and_name_the_best() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 11), torch.randint(11, (5,))
    targets[2] = logits[2].argmax()
    log_probs, is_best = token_log_probs(logits, targets)
    torch.testing.assert_close(log_probs, selective_log_softmax(logits, targets))
    assert is_best.tolist() == (logits.argmax(1) == targets).tolist()
    assert is_best[2]


@pytest.mark.parametrize("tile", [1, 22, 10**6], ids=["a row at a time", "two rows", "all at once"])
def test_tiles_of_logits_score_as_all_logits_do(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "TILE", tile)
    torch.manual_seed(0)
    weight, targets, upstream = torch.randn(11, 4), torch.randint(11, (5,)), torch.randn(5)
    hidden, tiled = (torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    expected, best = token_log_probs(hidden @ weight.T, targets)
    (expected * upstream).sum().backward()
    got, is_best = LinearLogProbs.apply(tiled, weight, targets)
    (got * upstream).sum().backward()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(tiled.grad, hidden.grad)
    assert torch.equal(is_best, best)


def test_sums_are_per_sequence_and_within_a_part() -> None:
    mask = torch.tensor([[0, 1, 1, 1], [1, 0, 0, 1]], dtype=torch.bool)
    part = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0]])
    got = sequence_log_probs(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]), mask, part)
    assert got.tolist() == [1.0 + 4.0, 8.0]


@pytest.mark.parametrize("margin", [0.0, 1.0, 2.0])
def test_dpo_by_hand(margin: float) -> None:
    # The policy likes the chosen answer better by margin / beta nats than the reference does.
    one = torch.ones(1)
    got = dpo_loss(-3 * one + margin / 0.5, -4 * one, -3 * one, -4 * one, beta=0.5)
    assert got["loss"].item() == pytest.approx(math.log(1 + math.exp(-margin)))
    assert got["rewards/margins"].item() == pytest.approx(margin)
    assert got["rewards/chosen"].item() == pytest.approx(margin)
    assert got["rewards/rejected"].item() == 0
    assert got["rewards/accuracies"].item() == (margin > 0)
