"""Templates carry every input, one short user turn each."""

import pytest

from data_modules import templates
from data_modules.records import Messages, Prompt

RAW = Prompt("1", "RAW", "RULE")
MESSAGES: dict[str, tuple[Messages, list[str]]] = {
    "extract": (templates.extract("CAPTION"), ["CAPTION", *templates.MODIFIER_KINDS]),
    "short": (templates.deform("CAPTION", "short"), ["CAPTION"]),
    "generic": (templates.deform("CAPTION", "generic"), ["CAPTION"]),
    "reordered": (templates.deform("CAPTION", "reordered"), ["CAPTION"]),
    "long": (templates.deform("CAPTION", "long"), ["CAPTION"]),
    "tags": (templates.deform("CAPTION", "tags"), ["CAPTION"]),
    "merge": (templates.merge("PROMPT", "DETAIL"), ["PROMPT", "DETAIL"]),
    "direct": (templates.direct("PROMPT"), ["PROMPT"]),
    "refactor": (templates.refactor("PROMPT", "RULE"), ["PROMPT", "RULE"]),
    "critique": (
        templates.critique(RAW, "CURRENT", "FAULT", [("EARLIER", 0.25, "REASON")]),
        ["RAW", "RULE", "CURRENT", "FAULT", "EARLIER", "0.25", "REASON"],
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_every_input_reaches_the_model_in_one_user_turn(name: str) -> None:
    messages, inputs = MESSAGES[name]
    [message] = messages
    assert message["role"] == "user"
    assert all(text in message["content"] for text in inputs)


@pytest.mark.parametrize("name", MESSAGES)
def test_instructions_are_short(name: str) -> None:
    messages, _ = MESSAGES[name]
    assert len(messages[0]["content"].split("\n")[0].split()) < 60


def test_templates_can_be_told_apart() -> None:
    instructions = {messages[0]["content"].split("\n")[0] for messages, _ in MESSAGES.values()}
    assert len(instructions) == len(MESSAGES)


def test_what_is_absent_is_not_mentioned() -> None:
    plain = templates.critique(Prompt("1", "RAW"), "CURRENT", "FAULT")[0]["content"]
    assert "Rule" not in plain
    assert "Earlier" not in plain
    assert "Rule" not in templates.refactor("PROMPT")[0]["content"]


def test_an_input_may_hold_braces_and_percent_signs() -> None:
    assert "{x} 50% %s" in templates.direct("{x} 50% %s")[0]["content"]
