"""A video model's own prompt enhancement, to be compared with a tuned rewriter."""

import logging
from collections.abc import Sequence
from pathlib import Path

from collect.backends.answers import complete
from collect.protocols import LanguageModel
from data_modules.records import Message, Messages, Prompt
from data_modules.schema import parse_json
from data_modules.text import read_text

SLOT = "{prompt}"

logger = logging.getLogger(__name__)


class EnhancerRewriter:
    """Asks as a video model's own program does; no gate stands behind it, as none does there.

    The instructions are the maker's text and not shipped: they are read from a file that the user makes from the video
    model's repository. docs/drop_in.md has the settings of Wan, HunyuanVideo-1.5, LTX-Video, LTX-2.5 and CogVideoX.

    Args:
        language_model: the one that the enhancement is published with, or another.
        instructions: text file with the system prompt, or a ``.json`` file with a list of messages, such as a system
            prompt and worked examples, that go before the prompt.
        user_turn: what the user's turn says; ``{prompt}`` in it is the prompt.
        max_words: prompts of more words are left as they are; ``None`` enhances all.
        seed: of what is sampled.

    Raises:
        FileNotFoundError: if there is no such file of instructions.
        ValueError: if the file holds nothing that can be sent, or the user's turn has no place for the prompt.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        instructions: Path,
        user_turn: str = SLOT,
        max_words: int | None = None,
        seed: int = 0,
    ) -> None:
        if SLOT not in user_turn:
            raise ValueError(f"user_turn must have {SLOT} where the prompt goes, got {user_turn!r}.")
        self.language_model = language_model
        self.earlier = read_instructions(instructions)
        self.user_turn = user_turn
        self.max_words = max_words
        self.seed = seed
        self.fallbacks = 0  # prompts that got no answer so far

    def rewrite(self, prompts: Sequence[Prompt]) -> list[str]:
        """Enhance each prompt; one that is long enough or gets no answer stays as it is."""
        texts = [prompt.prompt for prompt in prompts]
        short = [
            index for index, text in enumerate(texts) if self.max_words is None or len(text.split()) <= self.max_words
        ]
        answers = complete(self.language_model, [self._ask(texts[index]) for index in short], seed=self.seed)
        for index, answer in zip(short, answers, strict=True):
            said = "" if answer.fault else " ".join(answer.split())  # a prompt is one line
            if said:
                texts[index] = said
            else:
                self.fallbacks += 1
        if self.fallbacks:
            logger.info("%d prompts got no answer so far and stay as they are.", self.fallbacks)
        return texts

    def _ask(self, prompt: str) -> Messages:
        return [*self.earlier, Message(role="user", content=self.user_turn.replace(SLOT, prompt))]


def read_instructions(path: Path) -> Messages:
    """Read the messages that go before a prompt.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, or a ``.json`` file of anything but messages.
    """
    text = read_text(path, "the system prompt from the video model's repository")
    if not text.strip():
        raise ValueError(f"{path} is empty; copy the system prompt from the video model's repository.")
    if path.suffix != ".json":
        return [Message(role="system", content=text)]
    return parse_json(text, list[Message], str(path), "it must be a list of messages, each with role and content.")
