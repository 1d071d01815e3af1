"""An endpoint that speaks OpenAI's chat completions: requests and their answers, for whoever has something to ask."""

import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
from openai import OpenAI
from openai.types.chat import ChatCompletion

from collect.backends.generation import cut_after
from collect.backends.reasoning import ONLY_REASONING
from collect.protocols import Answer

logger = logging.getLogger(__name__)

# What a request may go without, once a server says that it does not take it, and the name it may take instead.
OPTIONAL: dict[str, str | None] = {
    "max_tokens": "max_completion_tokens",
    "temperature": None,
    "seed": None,
    "response_format": None,
}
MOST_SHOWN = 400  # characters of a server's words
REFUSED = "the endpoint refused it:"  # how the fault of an answer begins

# Statuses with which a server refuses one conversation, and what may help.
REFUSALS = {
    400: "",
    413: "; it is too large for the server, send fewer frames or less text, or raise its limit",
    422: "",
}


class EndpointError(ConnectionError, ValueError):
    """An endpoint that gives no answers, whether it fails or is not what the settings say."""


class Endpoint:
    """A model behind an endpoint that speaks OpenAI's chat completions.

    The key is taken from the environment variable ``OPENAI_API_KEY``; servers of one's own need none.

    Servers differ in what they take. The most tokens of an answer go by the name of ``max_tokens`` or, with OpenAI's
    models that reason, ``max_completion_tokens`` (https://platform.openai.com/docs/api-reference/chat/create). What a
    server refuses to take, of these and of temperature, seed and response format, it is not sent again.

    Args:
        base_url: with its version: ``http://127.0.0.1:8000/v1``.
        model: what the endpoint calls the model.
        timeout: seconds that one answer may take.
        max_retries: how often a request that failed on the way, or that the server could not take, is sent again.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, base_url: str, model: str, timeout: float, max_retries: int) -> None:
        if timeout <= 0 or max_retries < 0:
            raise ValueError(f"timeout must be above 0 and max_retries at least 0, got {timeout} and {max_retries}")
        self.base_url = base_url
        self.model = model
        self.timeout = timeout
        self.max_retries = max_retries
        self._refused: set[str] = set()  # of OPTIONAL
        self._answers = False  # whether it ever did

    @contextmanager
    def connected(self) -> Iterator[OpenAI]:
        """Talk to the endpoint; say what is wrong with it, and what to do.

        Raises:
            EndpointError: if it cannot be reached, is too slow, refuses the key, does not know the model, or fails.
        """
        try:
            with OpenAI(
                base_url=self.base_url,
                api_key=_key() or "none",  # the client insists on one
                timeout=self.timeout,
                max_retries=self.max_retries,
            ) as client:
                yield client
        except openai.APITimeoutError as error:
            raise EndpointError(
                f"{self.base_url} did not answer within {self.timeout:g} s; raise timeout or ask for less at once"
            ) from error
        except openai.APIConnectionError as error:
            raise EndpointError(
                f"no server could be reached at {self.base_url} ({error.__cause__ or error}); "
                "is the server running and base_url right?"
            ) from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise EndpointError(
                f"{self.base_url} refused the key ({_said(error)}); set the environment variable OPENAI_API_KEY"
            ) from error
        except openai.APIStatusError as error:
            raise EndpointError(f"{self.base_url} refused to answer as {self.model!r}: {_said(error)}") from error

    def ask(self, client: OpenAI, messages: list[Any], max_new_tokens: int, **request: Any) -> Answer:
        """Answer one conversation.

        One that the server refuses, for its length or its content, is answered with nothing and the reason.

        Args:
            client: of :meth:`connected`.
            messages: the conversation.
            max_new_tokens: tokens after which the answer is cut.
            **request: the other arguments of a chat completion.
        """
        try:
            return _read(self._completion(client, messages, max_new_tokens, request), max_new_tokens)
        except openai.APIStatusError as error:
            if error.status_code not in REFUSALS:
                raise
            return Answer("", f"{REFUSED} {_said(error)}{REFUSALS[error.status_code]}")

    def checked(self, answers: list[Answer]) -> list[Answer]:
        """Let answers be refusals, unless there never was anything else: then it is not for what they are about.

        Raises:
            EndpointError: if every conversation was refused so far.
        """
        refused = [answer.fault for answer in answers if answer.fault and answer.fault.startswith(REFUSED)]
        self._answers |= len(refused) < len(answers)
        if refused and not self._answers:
            raise EndpointError(f"{self.base_url} refused to answer as {self.model!r}: {refused[0]}")
        return answers

    def _completion(self, client: OpenAI, messages: list[Any], limit: int, request: dict[str, Any]) -> ChatCompletion:
        """Send a request, again without what the server does not take, and again if no answer came."""
        refused = set(self._refused)
        failed = 0
        while True:
            sent = {"max_tokens": limit, **request}
            for name in refused & sent.keys():
                value = sent.pop(name)
                if other := OPTIONAL[name]:
                    sent[other] = value
            try:
                completion = client.chat.completions.create(model=self.model, messages=messages, **sent)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                named = next((name for name in OPTIONAL if name in sent and _is_about(error, name)), None)
                if named is None:
                    raise
                refused.add(named)
                continue
            for name in refused - self._refused:
                logger.warning("%s takes no %s for %s, which is asked without.", self.base_url, name, self.model)
            self._refused |= refused
            fault = _nothing_in(completion)
            if fault is None:
                return completion
            if failed == self.max_retries:
                about = f"{messages[-1]['content']!r:.200}"
                raise EndpointError(f"{self.base_url} sent no answer to {about} as {self.model!r}: {fault}")
            time.sleep(min(0.5 * 2**failed, 8.0))
            failed += 1


def json_form(schema: dict[str, Any]) -> dict[str, Any]:
    """The response format that holds answers to a JSON schema."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def _nothing_in(completion: Any) -> str | None:
    """Why there is no answer in what came with status 200, in the provider's own words where it has any."""
    if not isinstance(completion, ChatCompletion):
        return f"what came is no chat completion, it begins {str(completion)[:80]!r}"
    if completion.choices and completion.choices[0].message is not None:
        return None
    error = (completion.model_extra or {}).get("error")
    said = error.get("message", error) if isinstance(error, dict) else error
    return _masked(str(said)[:MOST_SHOWN]) if said else "it holds no choices"


def _read(completion: ChatCompletion, limit: int) -> Answer:
    choice = completion.choices[0]
    message = choice.message
    text = _text(message.content).strip()
    if choice.finish_reason in ("length", "max_tokens"):
        return Answer(text, cut_after(limit))
    if message.refusal:
        return Answer("", f"the model refused: {message.refusal[:MOST_SHOWN]}")
    if choice.finish_reason == "content_filter":
        return Answer("", "the endpoint's content filter held it back")
    thought = any((message.model_extra or {}).get(name) for name in ("reasoning_content", "reasoning"))
    return Answer(text, ONLY_REASONING if thought and not text else None)


def _text(content: object) -> str:
    """The text of a message, which some servers send in parts."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, dict) and part.get("type") == "text")
    return content if isinstance(content, str) else ""


def _is_about(error: openai.APIStatusError, name: str) -> bool:
    """Whether a refusal is about one argument of the request."""
    wanted = OPTIONAL[name] or name
    return error.param == name or re.search(rf"\b{wanted}\b", error.response.text[:MOST_SHOWN]) is not None


def _said(error: openai.APIStatusError) -> str:
    """What a server gave as the reason; servers differ in where they put it."""
    return f"{error.status_code} {_masked(error.response.text.strip()[:MOST_SHOWN])}"


def _key() -> str:
    return os.environ.get("OPENAI_API_KEY", "").strip()


def _masked(text: str) -> str:
    """A server's words without the key, which some repeat."""
    return text.replace(_key(), "[key]") if _key() else text
