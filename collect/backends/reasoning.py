"""What of an answer is reasoning: the marks that models put around what they think before they answer.

The marks are those of the chat templates of 2025 and 2026, as the reasoning parsers of vLLM list them
(https://github.com/vllm-project/vllm/tree/main/vllm/reasoning).
"""

import re

ONLY_REASONING = "it holds reasoning and no answer"

_TAG = r"(?:[\w-]+[:_])?(?:think|thinking|thoughts?|reasoning|reflection|scratchpad|rationale)"

# What begins and what ends reasoning, by family.
_FAMILIES = [
    # <think>: Qwen, DeepSeek, GLM, Kimi, MiniMax, Nemotron, SmolLM; <thought>: EXAONE; <seed:think>: Seed-OSS; ...
    (rf"<{_TAG}>", rf"</{_TAG}>"),
    (r"\[THINK\]", r"\[/THINK\]"),  # Mistral
    (r"<\|channel>\s*thought\b", r"<channel\|>"),  # Gemma 4
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Cohere
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),  # OpenThinker, Sky-T1
    (r"<\|think:start\|>", r"<\|think:end\|>"),  # Solar
    (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),  # Apertus
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),  # Kimi-VL
    (r"\[unused16\]", r"\[unused17\]"),  # Pangu
    (r"\A\s*Here(?: is|'s) my thought process:", r"Here(?: is|'s) my response:"),  # Granite 3
]
_MARKS = [tuple(re.compile(mark, re.IGNORECASE) for mark in family) for family in _FAMILIES]

# Channels: gpt-oss. Without its marks, which some servers drop, the names of the channels are left.
_CHANNEL = re.compile(
    r"(?:<\|start\|>\s*assistant)?\s*<\|channel\|>\s*(\w+).*?<\|message\|>", re.DOTALL | re.IGNORECASE
)
_END = re.compile(r"<\|(?:end|return|call|start)\|>")
_BARE = re.compile(r"\Aanalysis.*?assistantfinal(?P<answer>.*)\Z", re.DOTALL)

# Marks around the answer itself, which some models set after their reasoning.
_ANSWERS = [
    re.compile(rf"{begin}(?P<answer>.*?)(?:{end}|\Z)", re.DOTALL | re.IGNORECASE)
    for begin, end in (
        ("<answer>", "</answer>"),  # Hunyuan, GLM-4.1V
        ("<response>", "</response>"),  # Granite
        (r"<\|START_RESPONSE\|>", r"<\|END_RESPONSE\|>"),  # Cohere
        (r"<\|begin_of_solution\|>", r"<\|end_of_solution\|>"),  # OpenThinker
        (r"<\|begin_of_box\|>", r"<\|end_of_box\|>"),  # GLM-4.5V
        (r"\[BEGIN FINAL RESPONSE\]", r"\[END FINAL RESPONSE\]"),  # Apriel
    )
]


def without_reasoning(text: str) -> str:
    """The answer without what its model thought before; empty where there is nothing else.

    An answer stands after the last mark that ends reasoning, or else before the first that begins it: an answer may
    begin inside reasoning that its prompt has begun, and end inside some that its tokens did not suffice for.

    Args:
        text: with the model's special tokens, where it has any.
    """
    text = _final_channel(text)
    for begin, end in _MARKS:
        first = begin.split(text, maxsplit=1)[0]
        *thoughts, last = end.split(text)
        text = begin.split(last, maxsplit=1)[0]
        if thoughts and not text.strip() and begin.search(thoughts[0]):
            text = first
    for answer in _ANSWERS:
        found = answer.search(text)
        if found:
            text = found["answer"]
    return text.strip()


def begun_in(prompt: str) -> str:
    """The mark of reasoning that a rendered prompt ends with, so that its answer begins inside; empty without one."""
    found = (re.search(rf"(?:{begin.pattern})\s*\Z", prompt, begin.flags) for begin, _ in _MARKS)
    return next((match.group() for match in found if match), "")


def _final_channel(text: str) -> str:
    channels = list(_CHANNEL.finditer(text))
    if channels:
        final = [channel for channel in channels if channel[1].lower() == "final"]
        return _END.split(text[final[-1].end() :], maxsplit=1)[0] if final else ""
    bare = _BARE.match(text)
    return bare["answer"] if bare else text
