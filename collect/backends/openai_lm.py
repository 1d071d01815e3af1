"""Language models behind an endpoint that speaks OpenAI's chat completions."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, cast

import openai
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam
from openai.types.chat.chat_completion import Choice
from tqdm import tqdm

from collect.backends.sampling import seeds_for
from data_modules.conversation import harmless
from data_modules.records import Messages

logger = logging.getLogger(__name__)


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
        seeds = seeds_for([json.dumps(messages) for messages in turns], seed)
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
