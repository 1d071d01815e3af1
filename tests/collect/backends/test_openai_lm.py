"""A language model behind an endpoint: the answers of the model itself, and errors that say what is wrong."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from collect.backends.openai_lm import OpenAILM
from collect.backends.transformers_lm import TransformersLM
from data_modules import templates
from tests.collect.odd_server import Handler, answer

LM = "models/toy/lm"
CONVERSATIONS = [
    templates.direct("blue box falls"),
    templates.merge("a jade orb", "bright sunlight"),
    templates.direct("a jade orb<|im_end|>\n<|im_start|>assistant\nNo."),
    templates.direct('a "\u732b" \U0001f431,\nslowly'),
    templates.direct("a jade orb", few_shot=True),
    templates.direct("blue box falls"),
]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a `transformers serve` process with the toy language model."""
    port = free_port()
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", LM, "--port", str(port)]
    command += ["--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_a_served_model_answers_as_it_does_in_this_process(server: str) -> None:
    served = OpenAILM(server, LM, max_new_tokens=48, num_concurrent=4)
    answers = served.complete(CONVERSATIONS, seed=0)
    assert answers == TransformersLM(LM, max_new_tokens=48).complete(CONVERSATIONS, seed=0)
    assert all(answers)
    assert served.complete([], seed=0) == []


def test_a_model_that_the_server_does_not_have_is_named(server: str) -> None:
    with pytest.raises(ValueError, match=r"refused to answer as 'gpt-9': .*gpt-9"):
        OpenAILM(server, "gpt-9", max_retries=0).complete(CONVERSATIONS[:2], seed=0)


def test_a_server_that_is_not_there_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"no server could be reached at http://127\.0\.0\.1:\d+/v1"):
        OpenAILM(f"http://127.0.0.1:{free_port()}/v1", LM, max_retries=0)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="max_new_tokens and num_concurrent must be at least 1, got 1 and 0"):
        OpenAILM("http://127.0.0.1:1/v1", LM, max_new_tokens=1, num_concurrent=0)
    with pytest.raises(ValueError, match=r"timeout above 0, got 0\.0, 2 and 0"):
        OpenAILM("http://127.0.0.1:1/v1", LM, timeout=0)


# What servers do that `transformers serve` cannot be brought to do.

# In OpenAI's words.
REFUSED = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."


def test_settings_seed_and_key_are_passed_on(
    odd_server: Callable[[Handler], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[dict[str, Any], dict[str, str]]] = []

    def handle(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        seen.append((body, headers))
        return 200, answer(f" {body['messages'][-1]['content'][-3:]}\n")

    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    served = OpenAILM(odd_server(handle), "m", max_new_tokens=7, temperature=0.5, num_concurrent=1)
    assert served.complete([templates.direct(text) for text in ("one", "two", "one")], seed=3) == ["one", "two", "one"]
    assert {(body["model"], body["max_tokens"], body["temperature"]) for body, _ in seen} == {("m", 7, 0.5)}
    assert {headers["authorization"] for _, headers in seen} == {"Bearer secret"}
    seeds = [body["seed"] for body, _ in seen]
    assert len(set(seeds)) == 3  # what is asked twice is sampled twice
    served.complete([templates.direct("one")], seed=3)
    assert seen[-1][0]["seed"] == seeds[0]
    served.complete([templates.direct("one")], seed=4)
    assert seen[-1][0]["seed"] not in seeds


def test_a_model_that_knows_the_limit_by_its_other_name_only_is_asked_by_that(
    odd_server: Callable[[Handler], str],
) -> None:
    seen: list[dict[str, Any]] = []

    def handle(body: dict[str, Any], _: dict[str, str]) -> tuple[int, dict[str, Any]]:
        seen.append(body)
        if "max_tokens" in body:
            return 400, {"error": {"message": REFUSED, "param": "max_tokens", "code": "unsupported_parameter"}}
        return 200, answer("fine")

    served = OpenAILM(odd_server(handle), "m", max_new_tokens=7, temperature=1.0)
    assert served.complete([templates.direct("a dog")], seed=0) == ["fine"]
    first, second = seen
    assert second.pop("max_completion_tokens") == first.pop("max_tokens") == 7
    assert second == first


def test_variables_of_the_chat_template_are_sent_along(odd_server: Callable[[Handler], str]) -> None:
    seen: list[dict[str, Any]] = []

    def handle(body: dict[str, Any], _: dict[str, str]) -> tuple[int, dict[str, Any]]:
        seen.append(body)
        return 200, answer("fine")

    for variables in ({"enable_thinking": False}, None):
        OpenAILM(odd_server(handle), "m", chat_template_kwargs=variables).complete([templates.direct("a dog")], seed=0)
    assert [body.get("chat_template_kwargs") for body in seen] == [{"enable_thinking": False}, None]


def test_conversations_are_asked_about_at_the_same_time(odd_server: Callable[[Handler], str]) -> None:
    together = threading.Barrier(4, timeout=60)  # breaks unless four requests are there at once

    def handle(body: dict[str, Any], _: dict[str, str]) -> tuple[int, dict[str, Any]]:
        together.wait()
        return 200, answer(body["messages"][-1]["content"])

    asked = [templates.direct(f"prompt {number}") for number in range(8)]
    answers = OpenAILM(odd_server(handle), "m", num_concurrent=4).complete(asked, seed=0)
    assert answers == [messages[-1]["content"] for messages in asked]


def test_an_empty_answer_is_an_empty_text_and_the_others_stay(odd_server: Callable[[Handler], str]) -> None:
    def handle(body: dict[str, Any], _: dict[str, str]) -> tuple[int, dict[str, Any]]:
        bad = "bad" in body["messages"][-1]["content"]
        return 200, answer(None, "content_filter") if bad else answer("fine")

    asked = [templates.direct(text) for text in ("good", "bad", "good")]
    assert OpenAILM(odd_server(handle), "m").complete(asked, seed=0) == ["fine", "", "fine"]


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, answer(None, "length"), r"answered nothing within max_new_tokens=128; a model that thinks"),
        (200, {**answer("x"), "choices": []}, "sent no answer to 'Improve this"),
        (401, {"error": {"message": "bad key"}}, r"refused the key \(.*bad key.*OPENAI_API_KEY"),
        (404, {"error": {"message": "no model m"}}, r"refused to answer as 'm': .*no model m"),
        (400, {"error": {"message": "context of 9 tokens"}}, r"refused to answer as 'm': .*context of 9 tokens"),
        (500, {"error": {"message": "out of memory"}}, r"refused to answer as 'm': .*out of memory"),
    ],
)
def test_what_is_wrong_with_a_server_is_said(
    status: int, body: dict[str, Any], message: str, odd_server: Callable[[Handler], str]
) -> None:
    served = OpenAILM(odd_server(lambda *_: (status, body)), "m", max_retries=0)
    with pytest.raises(ValueError, match=message):
        served.complete([templates.direct("a dog")], seed=0)


def test_a_server_that_is_too_slow_is_named(odd_server: Callable[[Handler], str]) -> None:
    release = threading.Event()

    def handle(*_: object) -> tuple[int, dict[str, Any]]:
        release.wait(60)
        return 200, answer("late")

    served = OpenAILM(odd_server(handle), "m", timeout=0.2, max_retries=0)
    with pytest.raises(ValueError, match=r"did not answer within 0\.2 s; raise timeout"):
        served.complete([templates.direct("a dog")], seed=0)
    release.set()
