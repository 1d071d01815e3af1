"""Language models behind an endpoint that speaks OpenAI's chat completions."""

import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai

from collect.backends.endpoint import Endpoint, EndpointError, json_form
from collect.backends.generation import cut_after
from collect.backends.sampling import seeds_for
from collect.protocols import Answer
from data_modules.conversation import escape_special_tokens
from data_modules.progress import Progress
from data_modules.records import Messages

logger = logging.getLogger(__name__)


class OpenAILM:
    """A language model behind an endpoint that speaks OpenAI's chat completions: vLLM, SGLang, transformers, OpenAI.

    Conversations are asked about at the same time, which a server turns into batches. An answer whose tokens ran out is
    asked for once more with twice as many. What is still not whole, or was refused, says so (see
    :class:`~collect.protocols.Answer`); who asked decides what stands in for it.

    What servers do not take, see :class:`~collect.backends.endpoint.Endpoint`. The key is taken from the environment
    variable ``OPENAI_API_KEY``; servers of one's own need none.

    Args:
        base_url: of the endpoint, with its version: ``http://127.0.0.1:8000/v1``.
        model: what the endpoint calls the model.
        max_new_tokens: tokens after which an answer is cut.
        temperature: 0 takes the most likely token every time; above 0 samples.
        num_concurrent: conversations asked about at the same time.
        timeout: seconds that one answer may take.
        max_retries: how often a request that failed on the way, or that the server was too busy for, is sent again.
        chat_template_kwargs: values of the variables of the chat template on the server, as vLLM and SGLang take them,
            such as ``enable_thinking: false``.

    Raises:
        ValueError: if a number is out of range.
        EndpointError: if the endpoint cannot be reached or refuses the key.
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
        chat_template_kwargs: dict[str, Any] | None = None,
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
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.num_concurrent = num_concurrent
        self.more = {"extra_body": {"chat_template_kwargs": chat_template_kwargs}} if chat_template_kwargs else {}
        self.endpoint = Endpoint(base_url, model, timeout, max_retries)
        with self.endpoint.connected() as client:
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
            EndpointError: if the endpoint cannot be reached, is too slow, does not know the model, refuses every
                conversation, or cuts every answer off before it has begun.
        """
        return list(self._complete(conversations, seed))

    def complete_json(self, conversations: Sequence[Messages], schema: dict[str, Any], *, seed: int) -> list[str]:
        """Answer each conversation with JSON that follows a schema; a server that takes none is asked without.

        Raises:
            EndpointError: see :meth:`complete`.
        """
        return list(self._complete(conversations, seed, response_format=json_form(schema)))

    def _complete(self, conversations: Sequence[Messages], seed: int, **request: Any) -> list[Answer]:
        turns = [[escape_special_tokens(message) for message in messages] for messages in conversations]
        seeds = seeds_for([json.dumps(messages) for messages in turns], seed)
        with self.endpoint.connected() as client, ThreadPoolExecutor(self.num_concurrent) as pool:
            futures = [
                pool.submit(self._answer, client, messages, {**request, "seed": own % 2**31})  # what every server takes
                for messages, own in zip(turns, seeds, strict=True)
            ]
            try:
                asked = Progress(futures, desc=self.endpoint.model, delay=10, leave=False)
                answers = self.endpoint.checked([future.result() for future in asked])
            finally:
                for future in futures:
                    future.cancel()
        if answers and not any(answers) and all("max_new_tokens" in (answer.fault or "") for answer in answers):
            raise EndpointError(
                f"{self.endpoint.model} at {self.endpoint.base_url} answered nothing within "
                f"max_new_tokens={self.max_new_tokens}; a model that thinks before it answers needs more, or its "
                "thinking switched off"
            )
        return answers

    def _answer(self, client: openai.OpenAI, messages: Messages, request: dict[str, Any]) -> Answer:
        answer = Answer("")
        for room in (self.max_new_tokens, 2 * self.max_new_tokens):
            answer = self.endpoint.ask(client, messages, room, temperature=self.temperature, **request, **self.more)
            if answer.fault != cut_after(room):
                break
        return answer
