"""Language models: in this process, or behind an endpoint.

N conversations, B of them in a batch, T tokens, V vocabulary, L labels.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from weakref import WeakValueDictionary

import numpy as np
import openai
import torch
from numpy.typing import NDArray
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam
from openai.types.chat.chat_completion import Choice
from peft import PeftConfig, PeftModelForCausalLM
from torch import Tensor
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from data_modules.conversation import harmless, marks_of, render
from data_modules.records import Messages

logger = logging.getLogger(__name__)


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


class ResidentModel:
    """A base model with its tokenizer, and the adapters that are switched on it.

    Args:
        pretrained: Hugging Face id or directory with weights and tokenizer.
        device: where the model runs.
        dtype: precision of the weights, as torch names it.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if the tokenizer has no chat template.
    """

    def __init__(self, pretrained: str, device: str, dtype: str) -> None:
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
        self.model.generation_config = greedy_settings(self.model.generation_config, self.tokenizer)
        self.pretrained = pretrained
        self.model.to(torch.device(device)).eval()
        self._adapted: PeftModelForCausalLM | None = None

    @classmethod
    def get(cls, pretrained: str, device: str, dtype: str) -> "ResidentModel":
        """Take the one model of these settings in this process; it is freed with the last that uses it."""
        key = (_place(pretrained), device, dtype)
        resident = _RESIDENT.get(key)
        if resident is None:
            _RESIDENT[key] = resident = cls(pretrained, device, dtype)
        return resident

    def add(self, adapter: str) -> str:
        """Load an adapter unless it is there already; return the name it is switched on by.

        Raises:
            FileNotFoundError: if there is no adapter.
            ValueError: if it does not fit this model.
        """
        try:
            config = PeftConfig.from_pretrained(adapter)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"no adapter could be loaded from {adapter!r}; give a directory that `train export --merge false` or "
                f"PEFT wrote, or name a whole model as `pretrained` ({error})"
            ) from error
        # PEFT's names are parts of module paths, where a full stop would be a separator.
        name = hashlib.sha256(_place(adapter).encode()).hexdigest()[:16]
        if self._adapted is not None and name in self._adapted.peft_config:
            return name
        made_for = config.base_model_name_or_path
        if made_for and Path(made_for).name != Path(self.pretrained).name:
            logger.warning("The adapter %s was trained on %s and is used on %s.", adapter, made_for, self.pretrained)
        try:
            if self._adapted is None:
                self._adapted = PeftModelForCausalLM(self.model, config, name)
            self._adapted.load_adapter(adapter, name)
        except (RuntimeError, ValueError) as error:
            if self._adapted is not None and name in self._adapted.peft_config:
                self._adapted.delete_adapter(name)
            raise ValueError(f"the adapter {adapter} does not fit the model {self.pretrained}: {error}") from error
        self._adapted.eval()
        return name

    @contextmanager
    def using(self, name: str | None) -> Iterator[PreTrainedModel | PeftModelForCausalLM]:
        """Give the model with one adapter switched on, or with none."""
        if self._adapted is None:
            yield self.model
        elif name is None:
            with self._adapted.disable_adapter():
                yield self.model
        else:
            self._adapted.set_adapter(name)
            yield self._adapted


# What is in use, by place or id, device and precision.
_RESIDENT: WeakValueDictionary[tuple[str, str, str], ResidentModel] = WeakValueDictionary()


class TransformersLM:
    """A causal language model with a chat template, from any directory or id that transformers can load.

    The answer to a conversation depends on the conversation, the seed and how often the same conversation came
    before it in the call, and on nothing else: batches of any size give the same answers.

    Of the generation settings that come with a model only its tokens count, see :func:`greedy_settings`: an adapter
    on a model answers as the two merged do.

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
        self._marks = marks_of(self.tokenizer)

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
        seeds = _seeds(texts, seed)
        answers: list[str] = [""] * len(ids)
        for rows in tqdm(self._batches(ids), desc="language model", unit="batch", delay=10, leave=False):
            completed = self._complete([ids[row] for row in rows], [seeds[row] for row in rows])
            for row, answer in zip(rows, completed, strict=True):
                answers[row] = answer
        return answers

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
        for rows in tqdm(self._batches(ids), desc="labels", unit="batch", delay=10, leave=False):
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
        return render(self.tokenizer, messages, self._marks)

    def _tokenise(self, texts: Sequence[str], num_new: int) -> list[list[int]]:
        """Token ids of each text, which leave room for so many new ones."""
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False).input_ids if texts else []
        context = self.resident.model.config.max_position_embeddings
        for text, tokens in zip(texts, ids, strict=True):
            if len(tokens) + num_new > context:
                raise ValueError(
                    f"a conversation of {len(tokens)} tokens and an answer of {num_new} exceed the "
                    f"language model's context of {context}; shorten the prompt in {text[:400]!r}..., or lower "
                    "max_new_tokens"
                )
        return ids

    def _batches(self, ids: Sequence[Sequence[int]]) -> list[list[int]]:
        """Rows that share a batch: alike lengths, so that little is padded."""
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def _pad(self, ids: list[list[int]]) -> dict[str, Tensor]:
        return self.tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(self.resident.model.device)

    @torch.inference_mode()
    def _complete(self, ids: list[list[int]], seeds: list[int]) -> list[str]:
        batch = self._pad(ids)
        noise = [GumbelNoise(self.temperature, seeds)] if self.temperature > 0 else []
        with self.resident.using(self.adapter) as model:
            generated = model.generate(
                **batch,
                logits_processor=LogitsProcessorList(noise),
                do_sample=False,  # sampling is the noise's work
                max_new_tokens=self.max_new_tokens,
                tokenizer=self.tokenizer,  # a model's stop strings need it
            )
        answers = self.tokenizer.batch_decode(
            generated[:, batch["input_ids"].shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [answer.strip() for answer in answers]

    @torch.inference_mode()
    def _label_log_probs(self, ids: list[list[int]], tokens: list[int]) -> NDArray[np.float64]:
        batch = self._pad(ids)
        positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)  # padding is on the left
        with self.resident.using(self.adapter) as model:
            logits = model(**batch, position_ids=positions, logits_to_keep=1).logits[:, -1, tokens]
        log_probs: NDArray[np.float64] = logits.double().log_softmax(-1).cpu().numpy()
        return log_probs


class OpenAILM:
    """A language model behind an endpoint that speaks OpenAI's chat completions: vLLM, SGLang, transformers, OpenAI.

    Conversations are asked about at the same time, which a server turns into batches. An answer that the server leaves
    empty is empty here, as a model in this process may answer; who asked decides what stands in for it.

    The most tokens of an answer go by either of their names, see :func:`chat_completion`. OpenAI's models that reason
    take no temperature but 1.

    The key is taken from the environment variable ``OPENAI_API_KEY``; servers of one's own need none.

    Args:
        base_url: of the endpoint, with its version: ``http://127.0.0.1:8000/v1``.
        model: what the endpoint calls the model.
        max_new_tokens: tokens after which an answer is cut.
        temperature: 0 takes the most likely token every time; above 0 samples.
        num_concurrent: conversations asked about at the same time.
        timeout: seconds that one answer may take.
        max_retries: how often a request that failed on the way, or that the server was too busy for, is sent again.

    Raises:
        ValueError: if a number is out of range, or the endpoint cannot be reached or refuses the key.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        num_concurrent: int = 16,
        timeout: float = 120.0,
        max_retries: int = 2,
    ) -> None:
        if max_new_tokens < 1 or num_concurrent < 1:
            raise ValueError(
                f"max_new_tokens and num_concurrent must be at least 1, got {max_new_tokens} and {num_concurrent}"
            )
        if temperature < 0 or timeout <= 0 or max_retries < 0:
            raise ValueError(
                "temperature and max_retries must be at least 0 and timeout above 0, "
                f"got {temperature}, {max_retries} and {timeout}"
            )
        self.base_url = base_url
        self.model = model
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.num_concurrent = num_concurrent
        self.timeout = timeout
        self.max_retries = max_retries
        with self._connected() as client:
            try:
                client.with_options(max_retries=0).models.list()
            except (openai.AuthenticationError, openai.PermissionDeniedError):
                raise
            except openai.APIStatusError:  # some servers cannot list their models
                logger.info("%s does not list its models; whether it has %s shows when it is asked.", base_url, model)

    def complete(self, conversations: Sequence[Messages], *, seed: int) -> list[str]:
        """Answer each conversation.

        Args:
            conversations: chat messages that end with a user's turn.
            seed: with the text of a conversation, decides what is sampled, as far as the server keeps to seeds.

        Raises:
            ValueError: if the endpoint cannot be reached, is too slow, refuses a conversation, does not know the
                model, or cuts every answer off before it has begun.
        """
        turns = [[harmless(message) for message in messages] for messages in conversations]
        seeds = _seeds([json.dumps(messages) for messages in turns], seed)
        with self._connected() as client, ThreadPoolExecutor(self.num_concurrent) as pool:
            futures = [
                pool.submit(self._answer, client, messages, own) for messages, own in zip(turns, seeds, strict=True)
            ]
            try:
                choices = [future.result() for future in tqdm(futures, desc=self.model, delay=10, leave=False)]
            finally:
                for future in futures:
                    future.cancel()
        answers = [(choice.message.content or "").strip() for choice in choices]
        if choices and not any(answers) and all(choice.finish_reason == "length" for choice in choices):
            raise ValueError(
                f"{self.model} at {self.base_url} answered nothing within max_new_tokens={self.max_new_tokens}; "
                "a model that thinks before it answers needs more, or its thinking switched off"
            )
        return answers

    def _answer(self, client: OpenAI, messages: Messages, seed: int) -> Choice:
        completion = chat_completion(
            client,
            self.max_new_tokens,
            model=self.model,
            messages=cast(list[ChatCompletionMessageParam], messages),
            temperature=self.temperature,
            seed=seed % 2**31,  # what every server takes
        )
        if not completion.choices:
            raise ValueError(f"{self.base_url} sent no answer to {messages[-1]['content'][:200]!r}")
        return completion.choices[0]

    @contextmanager
    def _connected(self) -> Iterator[OpenAI]:
        """Talk to the endpoint; say what is wrong with it, and what to do."""
        try:
            with OpenAI(
                base_url=self.base_url,
                api_key=os.environ.get("OPENAI_API_KEY") or "none",  # the client insists on one
                timeout=self.timeout,
                max_retries=self.max_retries,
            ) as client:
                yield client
        except openai.APITimeoutError as error:
            raise ValueError(
                f"{self.base_url} did not answer within {self.timeout:g} s; raise timeout or lower num_concurrent"
            ) from error
        except openai.APIConnectionError as error:
            raise ValueError(
                f"no server could be reached at {self.base_url} ({error.__cause__ or error}); "
                "start one, or mend base_url"
            ) from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise ValueError(
                f"{self.base_url} refused the key ({_said(error)}); set the environment variable OPENAI_API_KEY"
            ) from error
        except openai.APIStatusError as error:
            raise ValueError(f"{self.base_url} refused to answer as {self.model!r}: {_said(error)}") from error


def chat_completion(client: OpenAI, max_new_tokens: int, **request: Any) -> ChatCompletion:
    """Ask for an answer of at most so many tokens, by whichever name the endpoint knows that limit.

    ``max_tokens`` is the name that all servers of open models know. OpenAI's models that reason refuse it and name
    ``max_completion_tokens`` instead (https://platform.openai.com/docs/api-reference/chat/create); they are then asked
    once more, by that name.

    Args:
        client: of the endpoint.
        max_new_tokens: tokens after which an answer is cut.
        **request: the other arguments of a chat completion.
    """
    try:
        completion: ChatCompletion = client.chat.completions.create(max_tokens=max_new_tokens, **request)
    except openai.BadRequestError as error:
        if "max_completion_tokens" not in error.response.text:
            raise
        completion = client.chat.completions.create(max_completion_tokens=max_new_tokens, **request)
    return completion


def _said(error: openai.APIStatusError) -> str:
    """What a server gave as the reason; servers differ in where they put it."""
    return f"{error.status_code} {error.response.text.strip()[:400]}"


def greedy_settings(own: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Settings under which the most likely token is taken, of all that a model may say.

    A model's own settings may sample, and may punish words that came before, which a rewrite must repeat. What
    ``train export`` writes is the same, so that an exported rewriter answers alike as an adapter and merged.

    Args:
        own: the model's.
        tokenizer: whose end token ends an answer, too.
    """
    kept = ("bos_token_id", "stop_strings", "suppress_tokens", "begin_suppress_tokens")
    also = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    ends = [end for end in dict.fromkeys([tokenizer.eos_token_id, *also]) if end is not None]
    return GenerationConfig(
        do_sample=False,
        eos_token_id=ends[0] if len(ends) == 1 else ends or None,
        pad_token_id=tokenizer.pad_token_id,
        **{name: value for name in kept if (value := getattr(own, name)) is not None},
    )


def _place(name: str) -> str:
    """A directory's full path, or the id of what is no directory."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _seeds(texts: Sequence[str], seed: int) -> list[int]:
    """Derive a seed from each text; texts that are the same get different ones."""
    seen: Counter[str] = Counter()
    seeds = []
    for text in texts:
        digest = hashlib.sha256(f"{seed}\x1f{seen[text]}\x1f{text}".encode()).digest()
        seeds.append(int.from_bytes(digest[:8]) >> 1)
        seen[text] += 1
    return seeds
