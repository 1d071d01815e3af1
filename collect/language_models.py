"""Language models that run in this process. B conversations in a batch, T tokens, V vocabulary."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from data_modules.records import Messages


class GumbelNoise(LogitsProcessor):
    """Turns the largest logit into an exact sample, with a noise stream of each conversation's own.

    ``argmax(logits / temperature + Gumbel noise)`` is distributed as ``softmax(logits / temperature)``. With one
    stream per row, what is sampled for a conversation cannot depend on its neighbours in the batch.

    Args:
        temperature: above 0; lower is closer to the most likely answer.
        seeds: one per row of the batch.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self.temperature = temperature
        self.streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Add noise to the scores, ``(B, V)``."""
        uniform = torch.stack([torch.rand(scores.shape[-1], generator=stream) for stream in self.streams])
        noise = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        return scores.float() / self.temperature + noise.to(scores.device)


class TransformersLM:
    """A causal language model with a chat template, from any directory or id that transformers can load.

    The answer to a conversation depends on the conversation, the seed and how often the same conversation came
    before it in the call, and on nothing else: batches of any size give the same answers.

    Args:
        pretrained: Hugging Face id or directory with weights and tokenizer.
        batch_size: conversations per forward pass.
        max_new_tokens: tokens after which an answer is cut.
        temperature: 0 takes the most likely token every time; above 0 samples.
        device: where the model runs.
        dtype: precision of the weights, as torch names it.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if a number is out of range, or the tokenizer has no chat template.
    """

    def __init__(
        self,
        pretrained: str,
        batch_size: int = 32,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        if batch_size < 1 or max_new_tokens < 1:
            raise ValueError(f"batch_size and max_new_tokens must be at least 1, got {batch_size} and {max_new_tokens}")
        if temperature < 0:
            raise ValueError(f"temperature must be at least 0, got {temperature}")
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(pretrained, padding_side="left")
            self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(pretrained, dtype=getattr(torch, dtype))
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"no language model could be loaded from {pretrained!r}; give a directory that `train export` wrote, "
                f"or the id of a model that was downloaded before ({error})"
            ) from error
        if self.tokenizer.chat_template is None:
            raise ValueError(f"the tokenizer of {pretrained!r} has no chat template; use a model tuned for chat")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model.to(torch.device(device)).eval()
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature

    def complete(self, conversations: Sequence[Messages], *, seed: int) -> list[str]:
        """Answer each conversation.

        Args:
            conversations: chat messages that end with a user's turn.
            seed: with the text of a conversation, decides what is sampled.

        Raises:
            ValueError: if a conversation and its answer do not fit the model's context; nothing is answered then.
        """
        texts = [self._render(messages) for messages in conversations]
        ids = self.tokenizer(texts, add_special_tokens=False).input_ids if texts else []
        self._check(texts, ids)
        seeds = _seeds(texts, seed)
        # Alike lengths share a batch, so that little is padded; the answers go back to their places.
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        starts = range(0, len(order), self.batch_size)
        answers: list[str] = [""] * len(ids)
        for start in tqdm(starts, desc="language model", unit="batch", delay=10, leave=False):
            rows = order[start : start + self.batch_size]
            completed = self._complete([ids[row] for row in rows], [seeds[row] for row in rows])
            for row, answer in zip(rows, completed, strict=True):
                answers[row] = answer
        return answers

    def _render(self, messages: Messages) -> str:
        turns = [dict(message) for message in messages]
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def _check(self, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> None:
        context = self.model.config.max_position_embeddings
        for text, tokens in zip(texts, ids, strict=True):
            if len(tokens) + self.max_new_tokens > context:
                raise ValueError(
                    f"a conversation of {len(tokens)} tokens and an answer of {self.max_new_tokens} exceed the "
                    f"language model's context of {context}; shorten the prompt in {text[:400]!r}..., or lower "
                    "max_new_tokens"
                )

    @torch.inference_mode()
    def _complete(self, ids: list[list[int]], seeds: list[int]) -> list[str]:
        batch = self.tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(self.model.device)
        noise = [GumbelNoise(self.temperature, seeds)] if self.temperature > 0 else []
        generated = self.model.generate(
            **batch,
            logits_processor=LogitsProcessorList(noise),
            do_sample=False,  # sampling is the noise's work
            max_new_tokens=self.max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            temperature=None,
            top_p=None,
            top_k=None,
        )
        answers = self.tokenizer.batch_decode(
            generated[:, batch["input_ids"].shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [answer.strip() for answer in answers]


def _seeds(texts: Sequence[str], seed: int) -> list[int]:
    """Derive a seed from each text; texts that are the same get different ones."""
    seen: Counter[str] = Counter()
    seeds = []
    for text in texts:
        digest = hashlib.sha256(f"{seed}\x1f{seen[text]}\x1f{text}".encode()).digest()
        seeds.append(int.from_bytes(digest[:8]) >> 1)
        seen[text] += 1
    return seeds
