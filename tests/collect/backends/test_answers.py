"""Answers of language models: what of them is reasoning, wrapping or cut, through the rewriters that ask."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from collect.backends.answers import complete
from collect.backends.reasoning import without_reasoning
from collect.backends.transformers_lm import TransformersLM
from collect.backends.wrapping import unwrap
from collect.intent.gate import IntentGate
from collect.protocols import Answer
from collect.rewriters import CritiqueRewriter, LMRewriter, RAPORewriter
from data_modules import templates
from data_modules.records import Messages, Prompt

LM = "models/toy/lm"
FOX = Prompt("1", "a red fox in the snow")
TEXT = "A red fox trots through fresh snow at dawn, its breath rising in the cold air."


@pytest.fixture(scope="module")
def gate() -> IntentGate:
    return IntentGate()


class Says:
    """Answers everything with the same; stands in where the answer is the test's input."""

    def __init__(self, *answers: str) -> None:
        self.answers = answers

    def complete(self, conversations: Sequence[Messages], *, seed: int) -> list[str]:
        return [self.answers[number % len(self.answers)] for number in range(len(conversations))]


# Reasoning.

REASONED = [
    f"<think>\nThey want a fox.\n</think>\n\n{TEXT}",
    f"They want a fox. I could write <think> here.\n</think>\n{TEXT}",  # the prompt had opened it
    f"<think>\n\n</think>\n\n{TEXT}",
    f"<THINKING>a fox</THINKING>{TEXT}",
    f"<seed:think>a fox</seed:think>{TEXT}",
    f"<reasoning>a fox</reasoning><answer>{TEXT}</answer>",
    f"[THINK]a fox[/THINK]{TEXT}",
    f"<|channel|>analysis<|message|>A fox.<|end|><|start|>assistant<|channel|>final<|message|>{TEXT}<|return|>",
    f"<|channel|>analysis<|message|>A fox.<|end|><|channel|>final <|constrain|>text<|message|>{TEXT}",
    f"analysisThe user wants a fox.assistantfinal{TEXT}",
    f"<|channel>thought\na fox\n<channel|>{TEXT}<turn|>",
    f"<|START_THINKING|>a fox<|END_THINKING|><|START_RESPONSE|>{TEXT}<|END_RESPONSE|>",
    f"\u25c1think\u25b7a fox\u25c1/think\u25b7{TEXT}",
    f"Here is my thought process: a fox. Here is my response: {TEXT}",
]


@pytest.mark.parametrize("answer", REASONED)
def test_reasoning_is_taken_off_whatever_marks_it(answer: str, gate: IntentGate) -> None:
    assert LMRewriter(Says(answer), gate).rewrite([FOX]) == [TEXT]


@pytest.mark.parametrize(
    "answer",
    ["<think>They want a fox in", "[THINK]a fox[/THINK]", "<|channel|>analysis<|message|>A fox in", "a fox</think> "],
)
def test_where_only_reasoning_came_there_is_no_answer(answer: str, gate: IntentGate) -> None:
    rewriter = RAPORewriter(gate, direct=Says(answer))
    [rewriting] = rewriter.explain([FOX])
    assert (rewriting.origin, rewriting.text) == ("raw", FOX.prompt)
    assert rewriting.candidates[0].report.problems == ("it holds reasoning and no answer",)


@pytest.mark.parametrize("text", [TEXT, "5 < 6, he thinks > aloud", "a <think tank> in [brackets]", ""])
def test_a_text_without_reasoning_stays_as_it_is(text: str) -> None:
    assert without_reasoning(text) == text


def test_a_models_own_special_tokens_around_its_reasoning_are_read(tmp_path: Path) -> None:
    """As Mistral's and gpt-oss's, which are gone once special tokens are left out of the text."""
    tokenizer = AutoTokenizer.from_pretrained(LM)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    model = AutoModelForCausalLM.from_pretrained(LM, dtype=torch.float32)
    model.resize_token_embeddings(len(tokenizer))
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    language_model = TransformersLM(str(tmp_path), max_new_tokens=48)
    script = tokenizer("[THINK]blue box[/THINK]A jade orb falls.<|im_end|>", add_special_tokens=False).input_ids

    def forced(scores: torch.Tensor) -> torch.Tensor:
        row = torch.full_like(scores, -1e9)
        row[:, script[forced.step]] = 0  # type: ignore[attr-defined]
        forced.step += 1  # type: ignore[attr-defined]
        return row

    forced.step = 0  # type: ignore[attr-defined]
    head = language_model.resident.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda *args: forced(args[2][:, -1])[:, None])
    try:
        [answer] = language_model.complete([templates.direct("blue box")], seed=0)
    finally:
        handle.remove()
    assert answer == "A jade orb falls."
    assert answer.fault is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("end", "fault"), [("<think>\\n", "it holds reasoning and no answer"), ("<think>\\n\\n</think>\\n\\n", None)]
)
def test_an_answer_to_a_prompt_that_begins_reasoning_begins_inside_it(
    end: str, fault: str | None, tmp_path: Path
) -> None:
    """As with Qwen3.5's template, which leaves the block open unless it is told otherwise."""
    for path in Path(LM).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(LM)
    tokenizer.chat_template += f"{{% if add_generation_prompt %}}{{{{ '{end}' }}}}{{% endif %}}"
    tokenizer.save_pretrained(tmp_path)
    language_model = TransformersLM(str(tmp_path), max_new_tokens=64)
    [answer] = language_model.complete([templates.direct("blue box falls")], seed=0)
    assert answer.fault == fault  # type: ignore[attr-defined]
    assert bool(answer) == (fault is None)


# Wrapping.

WRAPPED = [
    f"Sure! Here's the improved prompt:\n\n{TEXT}",
    f"Here is a rewritten version of your prompt: {TEXT}",
    f"**Prompt:** {TEXT}",
    f"{TEXT}\n\nNote: I added the dawn for mood.",
    f"{TEXT} Note: I added the dawn.",
    f"{TEXT}\n\nWould you like me to make it longer?",
    f'{{"prompt": "{TEXT}"}}',
    f'```JSON\n{{"prompt": "{TEXT}", "negative_prompt": "blurry", "seed": 3}}\n```',
    f"## Enhanced Prompt\n\n{TEXT}",
    f"assistant: {TEXT}",
    f"{TEXT}<|im_end|>",
    f"<|im_start|>assistant\n{TEXT}<|im_end|>\n<|im_start|>user\nmore",
    f"{TEXT}\nUser: another one\nAssistant: ok",
    f"{TEXT}\n\nNegative prompt: blurry, low quality",
    f'"{TEXT}"',
    f"\u201c{TEXT}\u201d",
    f"```\n{TEXT}\n```\nLet me know if you want changes!",
    f"<prompt>{TEXT}</prompt>",
    f"**{TEXT}**",
    f"> {TEXT}",
    f"{TEXT}\n\n---\n\n**Key changes:**\n- added dawn\n- added breath",
    f"{TEXT}\n\nThis prompt emphasises the cold and keeps the original intent.",
    f"{TEXT} (15 words)",
    f"Original prompt: a red fox in the snow\n\nEnhanced prompt: {TEXT}",
    f"\u597d\u7684\uff0c\u4f18\u5316\u540e\u7684\u63d0\u793a\u8bcd\uff1a{TEXT}",
]


@pytest.mark.parametrize("answer", WRAPPED)
def test_wrapping_is_taken_off_by_who_asks_and_refused_by_the_gate(
    answer: str, gate: IntentGate, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        assert LMRewriter(Says(answer), gate).rewrite([FOX]) == [TEXT]
    assert "taken off 1 answers: 1 times" in caplog.text
    [unread, read] = gate.check([(FOX.prompt, answer), (FOX.prompt, TEXT)])
    assert not unread.passed
    assert read.passed


@pytest.mark.parametrize(
    "answer",
    [
        f"Option 1: {TEXT}\nOption 2: {TEXT} It runs.",
        f"**Version A:** {TEXT}\n\n**Version B:** {TEXT}",
        json.dumps({"scene": TEXT, "camera": "A red fox in the snow, close."}),
        "Would you like a red fox in the snow?",
        f"# Subject\n{TEXT}\n# Camera\nA wide shot of a red fox in the snow.",
        f"```\n{TEXT}\n```\nor\n```\n{TEXT}\n```",
    ],
)
def test_what_can_not_be_taken_off_is_refused(answer: str, gate: IntentGate) -> None:
    rewriter = LMRewriter(Says(answer), gate)
    assert rewriter.rewrite([FOX]) == [FOX.prompt]
    assert rewriter.fallbacks == 1


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ('"To be or not to be"', '"To be or not to be", a skull says'),
        ('"To be or not to be"', '"To be or not to be"'),
        ('a sign "OPEN" beside a sign "SHUT"', '"OPEN" glows on one sign, and another beside it says "SHUT"'),
        ("1. a cat 2. a dog", "1. A cat on a wall\n2. A dog in a yard"),
        ("Note: a cat. Negative prompt: dogs", "Note: a cat sits. Negative prompt: dogs"),
        ("a great white shark", "Great white sharks circle a boat"),
        ('she asks "Would you like tea?"', 'An old woman lifts a pot and asks, "Would you like tea?"'),
        ("answer: a man says yes", "Answer: a man says yes, slowly"),
        ("a man's 'best' day", "'best' is written on a man's shirt, and so is 'day'"),
        ("a title card", "The title card fades in. The end of the road is near."),
    ],
)
def test_what_the_user_wrote_is_no_wrapping(raw: str, text: str) -> None:
    assert unwrap(text, raw) == (text, ())


def test_published_rewrites_have_hardly_any_wrapping() -> None:
    folder = Path(__file__).parents[4] / "shared" / "data" / "vbench"
    if not folder.is_dir():
        pytest.skip("the shared rewrites are not here")
    prompts = (folder / "prompts.txt").read_text().splitlines()
    taken = [
        (rewrite, wrapping)
        for name in ("gpt4o", "self_forcing", "wan2.1_qwen")
        for raw, rewrite in zip(prompts, (folder / f"rewrites_{name}.txt").read_text().splitlines(), strict=True)
        if (wrapping := unwrap(rewrite, raw)[1])
    ]
    # One of 2,838, which stands in quotation marks.
    assert [(rewrite[0], rewrite[-1], wrapping) for rewrite, wrapping in taken] == [('"', '"', ("quotation marks",))]


# Whether an answer is whole.


def test_an_answer_that_is_not_whole_is_never_used_and_says_why(
    gate: IntentGate, caplog: pytest.LogCaptureFixture
) -> None:
    cut = Answer("A red fox trots through fresh snow at", "it was cut after 9 tokens")
    one_pass = LMRewriter(Says(cut), gate)
    assert one_pass.rewrite([FOX]) == [FOX.prompt]
    assert one_pass.fallbacks == 1
    assert "1 of 1 answers can't be used: 1 times it was cut after 9 tokens" in caplog.text
    critic = CritiqueRewriter(Says(cut, Answer(TEXT)), gate, num_proposals=2)
    assert critic.propose([FOX], [FOX.prompt], ["bad"], [[]], seed=0) == [[TEXT]]
    [rewriting] = RAPORewriter(gate, refactorer=Says(cut), direct=Says(TEXT)).explain([FOX])
    assert rewriting.text == TEXT
    assert rewriting.candidates[0].report.problems == ("it was cut after 9 tokens",)


def test_a_model_in_this_process_knows_whether_its_answers_ended() -> None:
    asked = [templates.direct("blue box falls"), templates.direct("a jade orb")]
    whole = TransformersLM(LM, max_new_tokens=48).complete(asked, seed=0)
    assert [answer.fault for answer in whole] == [None, None]  # type: ignore[attr-defined]
    length = max(len(TransformersLM(LM).tokenizer(answer).input_ids) for answer in whole)
    again = TransformersLM(LM, max_new_tokens=length // 2 + 2).complete(asked, seed=0)  # once more, with room
    assert again == whole
    assert [answer.fault for answer in again] == [None, None]  # type: ignore[attr-defined]
    short = TransformersLM(LM, max_new_tokens=4).complete(asked, seed=0)
    for answer, all_of_it in zip(short, whole, strict=True):
        assert answer.fault == "it was cut after 8 tokens, raise max_new_tokens"  # type: ignore[attr-defined]
        assert all_of_it.startswith(answer)


def test_a_model_that_repeats_itself_is_ended_early_whatever_stands_beside_it(tiny_lm: Path) -> None:
    asked: list[Messages] = [[{"role": "user", "content": text}] for text in ("blue box", "a jade orb at night", "?")]
    together = TransformersLM(str(tiny_lm), max_new_tokens=160)
    alone = TransformersLM(str(tiny_lm), max_new_tokens=160, batch_size=1)
    answers = together.complete(asked, seed=0)  # random weights: the most likely token comes again and again
    assert answers == alone.complete(asked, seed=0)
    assert {answer.fault for answer in answers} == {"it repeats itself without end"}  # type: ignore[attr-defined]
    assert all(len(together.tokenizer(answer).input_ids) < 150 for answer in answers)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([TEXT], "returned 1 answers to 2 conversations"),
        ([TEXT, None], "answered None, which is no text"),
        ([TEXT, b"fox"], "answered b'fox', which is no text"),
        (TEXT, "returned 'A red fox"),
        (None, "returned None to 2"),
        ([TEXT, ["a", "list"]], r"answered \['a', 'list'\], which is no text"),
    ],
)
def test_what_a_language_model_of_ones_own_returns_is_checked(given: object, message: str, gate: IntentGate) -> None:
    class Own:
        def complete(self, conversations: Sequence[Messages], *, seed: int) -> list[str]:
            return given  # type: ignore[return-value]

    with pytest.raises(ValueError, match=f"Own {message}"):
        LMRewriter(Own(), gate).rewrite([FOX, FOX])


def test_half_a_surrogate_pair_is_no_answer(gate: IntentGate) -> None:
    [answer] = complete(Says("a fox \ud83e"), [templates.direct("a fox")], seed=0)
    assert (answer, answer.fault) == ("", "it is no valid Unicode text")
    assert LMRewriter(Says("a red fox in the snow \ud83e"), gate).rewrite([FOX]) == [FOX.prompt]
