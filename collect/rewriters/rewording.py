"""Another rewriter's answers, in other words."""

import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from collect.backends.checks import checked_proposals, checked_rewrites, checked_verdicts
from collect.backends.video import write_video
from collect.protocols import Proposer, Rewriter, Verifier
from data_modules.records import Prompt

logger = logging.getLogger(__name__)

# Frames, height, width, RGB: 2 s at 8 frames a second, as long and large as any verifier needs.
EMPTY_VIDEO = (16, 256, 256, 3)


class RewordingRewriter:
    """Says another rewriter's answer in other words, for a choice that has something to choose from.

    Rewriters keep to the user's words, while what a video model draws depends on the words. Nothing is rendered here:
    the proposer is told what a verifier says of a video in which nothing can be seen, which is to reword all that was
    asked for.

    Where no proposal is left, or there is no critique because the verifier failed or had no words, the other rewriter's
    answer stands.

    Args:
        rewriter: whose answers are reworded, the raw prompts among them where it gave those back.
        proposer: rewords and sees to it that every proposal passes the gate; its first one is taken.
        verifier: says what of the prompt an empty video does not show.
        seed: of what the proposer samples; others give other words.
    """

    def __init__(self, rewriter: Rewriter, proposer: Proposer, verifier: Verifier, seed: int = 0) -> None:
        self.rewriter = rewriter
        self.proposer = proposer
        self.verifier = verifier
        self.seed = seed
        self.outcomes: Counter[Literal["reworded", "refused", "uncriticised"]] = Counter()  # so far

    def rewrite(self, prompts: Sequence[Prompt]) -> list[str]:
        """Rewrite each prompt, in other words where there are any."""
        texts = checked_rewrites(self.rewriter, self.rewriter.rewrite(prompts), len(prompts))
        critiques = self._criticise_nothing(prompts)
        rows = [row for row, critique in enumerate(critiques) if critique]
        given = self.proposer.propose(
            [prompts[row] for row in rows],
            [texts[row] for row in rows],
            [critiques[row] for row in rows],
            [[]] * len(rows),
            seed=self.seed,
        )
        proposals = checked_proposals(self.proposer, given, len(rows))
        refused = 0
        for row, own in zip(rows, proposals, strict=True):
            texts[row] = own[0] if own else texts[row]
            refused += not own
        left_out = len(prompts) - len(rows)
        self.outcomes.update({"reworded": len(rows) - refused, "refused": refused, "uncriticised": left_out})
        if refused or left_out:
            logger.info(
                "%d of %d rewrites are not reworded: for %d no proposal passed the intent gate, for %d there is no "
                "critique",
                refused + left_out,
                len(prompts),
                refused,
                left_out,
            )
        return texts

    def _criticise_nothing(self, prompts: Sequence[Prompt]) -> list[str]:
        """What the verifier misses in a black video, per prompt; nothing where it could not judge."""
        if not prompts:
            return []
        with tempfile.TemporaryDirectory() as folder:
            empty = Path(folder) / "empty.mp4"
            write_video(empty, np.zeros(EMPTY_VIDEO, np.uint8))
            given = self.verifier.judge(prompts, [empty] * len(prompts))
        verdicts = checked_verdicts(self.verifier, given, len(prompts), ranked=False)
        for verdict in verdicts:
            if verdict.error is not None:
                logger.warning("An empty video could not be judged: %s", verdict.error)
        return [verdict.critique for verdict in verdicts]
