"""One client for whoever asks an endpoint: a language model's user and a verifier meet the same odd servers."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collect.backends.endpoint import EndpointError
from collect.backends.openai_lm import OpenAILM
from collect.backends.video import write_video
from collect.verifiers import VLMEndpointVerifier
from data_modules import templates
from data_modules.records import Prompt
from tests.collect.odd_server import Handler, answer

GOOD = json.dumps({"answers": ["yes", "yes"], "score": 5, "critique": ""})
Start = Callable[[Handler], str]
Client = Callable[..., str]


@pytest.fixture(params=["lm", "vlm"])
def ask(request: pytest.FixtureRequest, tmp_path: Path) -> Client:
    """Ask an endpoint one thing by either of its users; what is wrong with the answer is in brackets."""

    def by_lm(url: str, max_retries: int = 0) -> str:
        model = OpenAILM(url, "m", max_new_tokens=100, max_retries=max_retries)
        [text] = model.complete([templates.direct("a red ball")], seed=0)
        return f"[{text.fault}]" if text.fault else "answered"  # type: ignore[attr-defined]

    def by_vlm(url: str, max_retries: int = 0) -> str:
        write_video(tmp_path / "v.mp4", np.zeros((4, 32, 32, 3), np.uint8))
        verifier = VLMEndpointVerifier("m", url, max_new_tokens=100, max_retries=max_retries)
        [verdict] = verifier.judge([Prompt("0", "a red ball")], [tmp_path / "v.mp4"])
        return f"[{verdict.error}]" if verdict.error else "answered"

    return by_lm if request.param == "lm" else by_vlm


NOTHING = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
WORDS = {"error": {"code": 502, "message": "Provider returned error"}}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({**NOTHING, "choices": None, **WORDS}, "Provider returned error"),
        ({**WORDS}, "Provider returned error"),
        ({**NOTHING, "choices": [], "error": "busy"}, "busy"),
        ({**NOTHING, "choices": []}, "it holds no choices"),
        ({**NOTHING, "choices": [{"index": 0, "finish_reason": "stop", "message": None}]}, "it holds no choices"),
        ("<html>Bad gateway</html>", "what came is no chat completion"),
    ],
)
def test_an_answer_that_is_none_is_asked_for_again_and_then_said_in_the_providers_words(
    body: Any, said: str, odd_server: Start, ask: Client
) -> None:
    calls: list[int] = []

    def once(*_: object) -> tuple[int, Any]:
        calls.append(1)
        return 200, body if len(calls) == 1 else answer(GOOD)

    assert ask(odd_server(once), max_retries=1) == "answered"
    with pytest.raises(EndpointError, match=f"sent no answer .*{said}"):
        ask(odd_server(lambda *_: (200, body)))


@pytest.mark.parametrize(("key", "sent"), [("", "none"), ("  ", "none"), ("secret-1\n", "secret-1")])
def test_an_empty_key_is_none_and_blanks_around_one_do_not_count(
    key: str, sent: str, odd_server: Start, ask: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    keys: list[str] = []

    def handle(_: object, headers: dict[str, str]) -> tuple[int, Any]:
        keys.append(headers["authorization"])
        return 200, answer(GOOD)

    assert ask(odd_server(handle)) == "answered"
    assert set(keys) == {f"Bearer {sent}"}


def test_a_key_that_a_server_repeats_is_not_shown(
    odd_server: Start, ask: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-1")
    url = odd_server(lambda *_: (401, {"error": {"message": "Incorrect API key: secret-1"}}))
    with pytest.raises(EndpointError, match=r"refused the key .*Incorrect API key: \[key\]") as raised:
        ask(url)
    assert "secret-1" not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (413, "refused to answer as 'm': .*413 .*send fewer frames or less text"),
        (422, "refused to answer as 'm': .*422"),
        (503, "refused to answer as 'm': 503"),
        (404, "refused to answer as 'm': 404"),
    ],
)
def test_each_status_has_its_own_words(status: int, said: str, odd_server: Start, ask: Client) -> None:
    with pytest.raises(EndpointError, match=said):
        ask(odd_server(lambda *_: (status, {"error": {"message": "no"}})))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (answer(None, refusal="I can't look at this."), "the model refused: I can't look at this."),
        (answer(None, "content_filter"), "content filter"),
        (answer(None, reasoning_content="Well, a ball"), "it holds reasoning and no answer"),
        (answer("", "length", reasoning_content="Well, a"), "cut after 200 tokens|answered nothing within"),
    ],
)
def test_what_is_no_answer_is_told_apart(body: Any, said: str, odd_server: Start, ask: Client) -> None:
    try:
        found = ask(odd_server(lambda *_: (200, body)))
    except EndpointError as error:
        found = str(error)
    assert re.search(said, found)


def test_an_answer_that_was_cut_is_asked_for_with_more_room(odd_server: Start, ask: Client) -> None:
    rooms: list[int] = []

    def handle(body: dict[str, Any], _: object) -> tuple[int, Any]:
        rooms.append(body["max_tokens"])
        return 200, answer(GOOD) if body["max_tokens"] > 150 else answer(GOOD[:20], "length")

    assert ask(odd_server(handle)) == "answered"
    assert rooms == [100, 200]
    assert "cut after 200 tokens" in ask(odd_server(lambda *_: (200, answer(GOOD[:20], "length"))))


@pytest.mark.parametrize("name", ["temperature", "seed"])
def test_what_a_server_does_not_take_is_left_out_and_said(
    name: str, odd_server: Start, ask: Client, caplog: pytest.LogCaptureFixture
) -> None:
    def handle(body: dict[str, Any], _: object) -> tuple[int, Any]:
        if name in body:
            return 400, {"error": {"message": f"Unsupported value: '{name}'", "param": name}}
        return 200, answer(GOOD)

    assert ask(odd_server(handle)) == "answered"
    assert f"takes no {name} for m, which is asked without" in caplog.text


def test_an_answer_in_parts_is_put_together(odd_server: Start, ask: Client) -> None:
    parts = [{"type": "thinking", "thinking": "a ball"}, {"type": "text", "text": GOOD}]
    assert ask(odd_server(lambda *_: (200, answer(parts)))) == "answered"


def test_reasoning_before_an_endpoints_answer_is_taken_off(odd_server: Start, ask: Client) -> None:
    assert ask(odd_server(lambda *_: (200, answer(f"<think>{{a ball}}</think>\n{GOOD}")))) == "answered"


def test_one_refused_conversation_leaves_the_others(odd_server: Start) -> None:
    def handle(body: dict[str, Any], _: object) -> tuple[int, Any]:
        refused = "long" in body["messages"][-1]["content"]
        return (400, {"error": {"message": "context of 9 tokens"}}) if refused else (200, answer("fine"))

    asked = [templates.direct(text) for text in ("a dog", "a long dog")]
    first, second = OpenAILM(odd_server(handle), "m").complete(asked, seed=0)
    assert (first, second) == ("fine", "")
    assert "context of 9 tokens" in second.fault  # type: ignore[attr-defined]
