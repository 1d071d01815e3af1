"""The mathematics, by hand and against TRL."""

import math

import torch
from trl.trainer.utils import selective_log_softmax

from models.functional import sequence_log_probs, token_accuracy


def test_log_probs_by_hand() -> None:
    # Two tokens; the second is predicted with odds 3 to 1, so with log(3/4) or log(1/4).
    logits = torch.tensor([[[math.log(3.0), 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[0, 1]])
    for token, probability in ((0, 3 / 4), (1, 1 / 4)):
        got = sequence_log_probs(logits, torch.tensor([[1, token]]), mask)
        torch.testing.assert_close(got, torch.tensor([math.log(probability)]))


def test_log_probs_equal_trl() -> None:
    torch.manual_seed(0)
    logits, ids = torch.randn(3, 7, 11), torch.randint(11, (3, 7))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1]])
    expected = (selective_log_softmax(logits[:, :-1], ids[:, 1:]) * mask[:, 1:]).sum(-1)
    torch.testing.assert_close(sequence_log_probs(logits, ids, mask), expected)


def test_what_is_masked_out_changes_nothing() -> None:
    torch.manual_seed(0)
    logits, ids = torch.randn(1, 6, 5), torch.randint(5, (1, 6))
    mask = torch.tensor([[0, 0, 1, 1, 0, 0]])
    other = torch.where(mask.bool(), ids, (ids + 1) % 5)
    assert torch.equal(sequence_log_probs(logits, ids, mask), sequence_log_probs(logits, other, mask))
    assert torch.equal(token_accuracy(logits, ids, mask), token_accuracy(logits, other, mask))


def test_accuracy_counts_masked_in_tokens() -> None:
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 2, 0, 0]]), 3).float()
    ids = torch.tensor([[0, 1, 0, 0]])  # predicted: 1, 2, 0 for positions 1, 2, 3: right, wrong, right
    assert token_accuracy(logits, ids, torch.tensor([[0, 1, 1, 0]])) == 1 / 2
    assert token_accuracy(logits, ids, torch.tensor([[0, 0, 0, 1]])) == 1
