"""Language models in this process.

N conversations, B of them in a batch, T tokens, V vocabulary, L labels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteriaList

from collect.backends import generation
from collect.backends.reasoning import begun_in
from collect.backends.resident import ResidentModel
from collect.backends.sampling import GumbelNoise, seeds_for
from collect.protocols import Answer
from data_modules.conversation import render, special_tokens_of
from data_modules.progress import Progress
from data_modules.records import Messages


class TransformersLM:
    """A causal language model with a chat template, from any directory or id that transformers can load.

    The answer to a conversation depends on the conversation, the seed and how often the same conversation came
    before it in the call, and on nothing else: batches of any size give the same answers.

    Of the generation settings that come with a model only its tokens count, see :func:`greedy_settings`: an adapter
    on a model answers as the two merged do.

    An answer ends with one of the model's end tokens. One whose tokens ran out is asked for once more with twice as
    many, where the context has room for them; what is still not whole, or repeats itself without end, says so (see
    :class:`~collect.protocols.Answer`).

    A process holds each base model once, however many of these use it, with or without an adapter of their own.

    Args:
        pretrained: Hugging Face id or directory with weights and tokenizer.
        batch_size: conversations per forward pass.
        max_new_tokens: tokens after which an answer is cut.
        temperature: 0 takes the most likely token every time; above 0 samples.
        device: where the model runs.
        dtype: precision of the weights, as torch names it.
        adapter: directory of a PEFT adapter for this model; ``None`` uses the model as it is.

    Raises:
        FileNotFoundError: if there is no such model or adapter.
        ValueError: if a number is out of range, the tokenizer has no chat template, or the adapter does not fit.
    """

    def __init__(
        self,
        pretrained: str,
        batch_size: int = 32,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        device: str = "cpu",
        dtype: str = "float32",
        adapter: str | None = None,
    ) -> None:
        if batch_size < 1 or max_new_tokens < 1:
            raise ValueError(f"batch_size and max_new_tokens must be at least 1, got {batch_size} and {max_new_tokens}")
        if temperature < 0:
            raise ValueError(f"temperature must be at least 0, got {temperature}")
        self.resident = ResidentModel.get(pretrained, device, dtype)
        self.tokenizer = self.resident.tokenizer
        self.adapter = None if adapter is None else self.resident.add(adapter)
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self._special_tokens = special_tokens_of(self.tokenizer)

    def complete(self, conversations: Sequence[Messages], *, seed: int) -> list[str]:
        """Answer each conversation.

        Args:
            conversations: chat messages that end with a user's turn.
            seed: with the text of a conversation, decides what is sampled.

        Raises:
            ValueError: if a conversation and its answer do not fit the model's context; nothing is answered then.
        """
        texts = [self._render(messages) for messages in conversations]
        ids = self._tokenise(texts, self.max_new_tokens)
        seeds = seeds_for(texts, seed)
        begun = begun_in(texts[0]) if texts else ""
        answers = self._answer(ids, seeds, self.max_new_tokens, begun)
        num_more = 2 * self.max_new_tokens
        context = self.resident.context_length
        cut = [
            row
            for row, answer in enumerate(answers)
            if answer.fault == generation.cut_after(self.max_new_tokens) and len(ids[row]) + num_more <= context
        ]
        again = self._answer([ids[row] for row in cut], [seeds[row] for row in cut], num_more, begun)
        for row, answer in zip(cut, again, strict=True):
            answers[row] = answer
        return list(answers)

    def label_log_probs(self, conversations: Sequence[Messages], labels: Sequence[str]) -> NDArray[np.float64]:
        """How likely each label is as the beginning of the answer, against the other labels.

        Args:
            conversations: chat messages that end with a user's turn.
            labels: at least two answers whose first tokens differ.

        Returns:
            Log-probabilities in nats, ``(N, L)``, of the labels' first tokens as the answer's first token, normalised
            over the labels.

        Raises:
            ValueError: if labels share their first token, or a conversation does not fit the model's context.
        """
        if len(labels) < 2:
            raise ValueError(f"labels must be at least two, got {', '.join(labels) or 'none'}")
        scores = np.zeros((len(conversations), len(labels)))
        if not conversations:
            return scores
        texts = [self._render(messages) for messages in conversations]
        ids = self._tokenise(texts, 1)
        tokens = self._first_tokens(texts[0], ids[0], labels)
        for rows in Progress(self._batches(ids), desc="labels", unit="batch", delay=10, leave=False):
            scores[rows] = self._label_log_probs([ids[row] for row in rows], tokens)
        return scores

    def _first_tokens(self, text: str, ids: list[int], labels: Sequence[str]) -> list[int]:
        """The first token of each label where an answer begins: a tokenizer may look at what is before it."""
        answered = self.tokenizer([text + label for label in labels], add_special_tokens=False).input_ids
        firsts = [row[len(ids)] for row in answered if len(row) > len(ids) and row[: len(ids)] == ids]
        if len(firsts) < len(labels) or len(set(firsts)) < len(labels):
            raise ValueError(
                f"the labels {', '.join(map(repr, labels))} do not begin with tokens of their own in this model's "
                "vocabulary; use others, such as 'A' and 'B'"
            )
        return firsts

    def _render(self, messages: Messages) -> str:
        return render(self.tokenizer, messages, self._special_tokens)

    def _tokenise(self, texts: Sequence[str], num_new: int) -> list[list[int]]:
        """Token ids of each text, which leave room for so many new ones."""
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False).input_ids if texts else []
        context = self.resident.context_length
        for text, tokens in zip(texts, ids, strict=True):
            if len(tokens) + num_new > context:
                raise ValueError(
                    f"a conversation of {len(tokens)} tokens and an answer of {num_new} exceed the "
                    f"language model's context of {context:g}; shorten the prompt in {text[:400]!r}..., or lower "
                    "max_new_tokens"
                )
        return ids

    def _batches(self, ids: Sequence[Sequence[int]]) -> list[list[int]]:
        """Rows that share a batch: alike lengths, so that little is padded."""
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def _pad(self, ids: list[list[int]]) -> dict[str, Tensor]:
        return self.tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(self.resident.model.device)

    def _answer(self, ids: Sequence[list[int]], seeds: Sequence[int], num_new: int, begun: str) -> list[Answer]:
        answers = [Answer("")] * len(ids)
        for rows in Progress(self._batches(ids), desc="language model", unit="batch", delay=10, leave=False):
            generated = self._generate([ids[row] for row in rows], [seeds[row] for row in rows], num_new, begun)
            for row, answer in zip(rows, generated, strict=True):
                answers[row] = answer
        return answers

    @torch.inference_mode()
    def _generate(self, ids: list[list[int]], seeds: list[int], num_new: int, begun: str) -> list[Answer]:
        batch = self._pad(ids)
        length = batch["input_ids"].shape[1]
        noise = [GumbelNoise(self.temperature, seeds)] if self.temperature > 0 else []
        loops = generation.Loops(length, self.tokenizer.pad_token_id)
        with self.resident.using(self.adapter) as model:
            generated = model.generate(
                **batch,
                logits_processor=LogitsProcessorList(noise),
                do_sample=False,  # sampling is the noise's work
                max_new_tokens=num_new,
                stopping_criteria=StoppingCriteriaList([loops]),
                tokenizer=self.tokenizer,  # a model's stop strings need it
            )
        return generation.read(
            generated[:, length:], num_new, loops, self.resident.model.generation_config, self.tokenizer, begun
        )

    @torch.inference_mode()
    def _label_log_probs(self, ids: list[list[int]], tokens: list[int]) -> NDArray[np.float64]:
        batch = self._pad(ids)
        positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)  # padding is on the left
        with self.resident.using(self.adapter) as model:
            logits = model(**batch, position_ids=positions, logits_to_keep=1).logits[:, -1, tokens]
        log_probs: NDArray[np.float64] = logits.double().log_softmax(-1).cpu().numpy()
        return log_probs
