"""What of an answer is wrapping: all that models put around a text that was asked for."""

import json
import re
from collections.abc import Callable, Iterator

from data_modules.conversation import CONTROL

MAX_LAYERS = 8  # wrappings inside wrappings

_I = re.IGNORECASE
_IS = re.IGNORECASE | re.DOTALL


def _any(*patterns: str) -> str:
    return f"(?:{'|'.join(patterns)})"


# Where a sentence or line begins, and the marks of a list, a heading or emphasis that may stand there.
_START = r"(?:\A|(?<=\n)|(?<=[.!?\u3002]\s)|(?<=[.!?][\"\u201d')*]\s))[\s>*_(\[#\u2022\u2013\u2014-]*"
_S = r"(?:['\u2019]s| is| are)"  # here's, here is, here are
_HAVE = r"(?:['\u2019]ve| have| also)?"
_ADJECTIVE = _any(
    "your|my|the|a|an|new|final|full|complete|better|rewritten|reworded|refined|revised|improved|enhanced|expanded",
    r"optimi[sz]ed|detailed|updated|merged|polished|generated|suggested|modified|cinematic|possible|more \w+",
)
_NOUN = _any(
    "prompts?|captions?|versions?|rewrit(?:e|ing|ten)|descriptions?|suggestions?|answers?|results?|outputs?|response"
)
_TEXT = rf"(?:{_ADJECTIVE}\s+)*(?:(?:text[- ]to[- ]video|t2v|video|image)\s+)?{_NOUN}"

_MARK = CONTROL.pattern + r"|<\|?turn\|?>|<(?:bos|eos|pad)>"
_OPENED = re.compile(rf"\A(?:\s*(?:{_MARK})\s*(?:(?:assistant|model)\b[:\s]*)?)+", _I)
_CLOSED = re.compile(_MARK)
_NEXT_TURN = re.compile(r"\n[\s#*]*(?:user|human|assistant|system|instruction|question)[*\s]*:.*\Z", _IS)
_ROLE = re.compile(r"\A[\s*#]*(?:assistant|ai|bot|model)[*\s]*:[*\s]*", _I)

_FENCE = re.compile(r"(?:\A|(?<=\n))[ \t]*(?P<mark>`{3,}|~{3,})[^\n`]*\n(?P<text>.*?)\n?[ \t]*(?P=mark)", re.DOTALL)
_FENCE_LEFT_OPEN = re.compile(r"\A\s*(?:`{3,}|~{3,})\w*\s*\n")
_IN_CODE = re.compile(r"\A(?P<mark>`+)(?P<text>[^`]+)(?P=mark)\Z")
_TAG = re.compile(
    r"<(?P<name>\w*(?:prompt|caption|rewrite|rewritten|output|result|text|description))>(?P<text>.*?)</(?P=name)>", _IS
)
_BOLD_LINE = r"(?:\*\*|__)[^\n*_]{1,80}(?:\*\*|__)[ \t]*:?"
_TITLE = re.compile(rf"\A(?:#{{1,6}}[ \t]+[^\n]+|{_BOLD_LINE}|(?:\*\*)?title\s*:[^\n]*)\n+(?=\S)", _I)
_HEADING = re.compile(rf"^(?:#{{1,6}}[ \t]+\S|{_BOLD_LINE}[ \t]*$)", re.MULTILINE)

_YES = re.compile(
    r"\A\W{0,3}"
    + _any(
        "sure(?: thing)?|certainly|absolutely|of course|okay|ok|al(?:l )?right|great(?: idea| prompt| choice)?|got it",
        "understood|no problem|yes|happy to help|gladly|definitely|perfect|\u597d\u7684|\u5f53\u7136",
    )
    + "(?!\\w)\\s*[,!.:\uff0c\u3002\uff01\u2014-]+\\s*",
    _I,
)
_HERE = re.compile(
    r"\A\W{0,3}"
    + _any(
        rf"here{_S}|below (?:is|are)|the following is|my (?:rewrite|version|suggestion)",
        rf"i{_HAVE}(?: now)? (?:\w+ed|rewritten)|i(?:['\u2019]d| would) (?:rewrite|suggest|write)",
        "let me (?:rewrite|improve|refine)",
    )
    + rf"\b[^\n]{{0,160}}?\b{_NOUN}\b"
    + r"(?:[^\n:.]{0,100}(?:[:.\uff1a](?:\s|(?=[\"\u201c*]))|\n)|\s*\Z)\s*",
    _I,
)
_IS_THIS = re.compile(rf"\A\W{{0,3}}{_TEXT}\s+(?:is|reads|could be|would be|might be)(?: as follows)?\s*:\s*", _I)
_HERE_LINE = re.compile(rf"\A\W{{0,3}}here(?:{_S}| you go)\b[^\n.]{{0,120}}:[*\s]*\n+", _I)
_ECHO = re.compile(
    r"\A\W{0,4}(?:original|user(?:['\u2019]s)?|input) (?:prompt|request|text|caption)[*\s]*:[^\n]*\n+(?=\S)", _I
)
_LABEL = re.compile(
    r"\A[\W_]{0,4}"
    + _any(
        rf"{_TEXT}(?:\s*\([^\n)]{{0,40}}\))?",
        "(?:\u4f18\u5316|\u6539\u5199|\u6269\u5199|\u6da6\u8272|\u6539\u8fdb)?\u540e?\u7684?(?:\u63d0\u793a\u8bcd|\u63cf\u8ff0|\u7ed3\u679c|\u8f93\u51fa)",
    )
    + r"[\s*_`]*[:\uff1a][\s*_]*",
    _I,
)

_NEGATIVE = re.compile(r"[\s,;|(\[*_#>-]*\bnegative[ _-]?(?:prompts?)?[*_\s]*[:=].*\Z", _IS)
_NOTE = re.compile(
    _START
    + _any(
        r"notes?|n\.?b\.?|explanations?(?: of [^:\n]{0,30})?|original(?: prompt)?|rationale|reasoning|justification",
        r"commentary|disclaimer|tips?|what i (?:changed|added)[^:\n]{0,20}|why (?:this|it) works[^:\n]{0,20}",
        r"(?:(?:key|main|what|summary of|list of|the)\s+)*"
        r"(?:changes?|improvements?|enhancements?|modifications?|additions?|edits)(?:\s+(?:i\s+)?made)?",
    )
    + r"\s*(?:\*\*|__)?\s*[:\uff1a].*\Z",
    _IS,
)
_ABOUT = (
    r"\b(?:prompt|details?|original|request|descriptions?|elements?|intent|version|caption|rewrite|wording|words)\b"
)
_REMARK = re.compile(
    _START
    + _any(
        r"(?:would|do|shall|should|could|may|want)\s+(?:you|i|me|we)\b[^?\n]*\?",
        r"want me to\b[^?\n]*\?|do(?:es)? (?:this|that|it) (?:work|help|look|sound|suit)\b[^?\n]*\?",
        r"is there anything else\b[^?\n]*\?|any (?:other )?(?:changes|requests|questions)\?",
        r"how(?:['\u2019]s| is| does) (?:that|this)\b[^?\n]*\?|what do you think\?",
        r"(?:please )?let me know\b[^\n]*|(?:i )?hope (?:this|that|it)\b[^\n]*|feel free\b[^\n]*|enjoy!?",
        r"if you(?:['\u2019]d| would)? (?:like|want|need|prefer)\b[^\n]*\b(?:i can|let me|just|me)\b[^\n]*",
        rf"i{_HAVE}\s+(?:\w+ed|kept|made|rewrote)\b(?=[^\n]*{_ABOUT})[^\n]*",
        rf"th(?:is|e) (?:{_ADJECTIVE}\s+)?(?:prompt|version|rewrite|rewriting|revision)\b[^\n]*",
        r"(?:word|token|character) count\s*:?\s*\d+\.?",
        r"(?:approx(?:imately|\.)?|about|~)?\s*\d+ (?:words|tokens|characters)\.?",
        r"(?:the end|end of prompt)\.?|-{3,}|\*{3,}|_{3,}|#\w+(?:\s+#\w+)+",
    )
    + r"[)\]*_\s]*\Z",
    _I,
)

# What ends a quotation, by what begins it.
_QUOTES = {'"': '"', "\u201c": "\u201d", "\u201e": "\u201c\u201d", "\u00ab": "\u00bb", "\u300c": "\u300d", "[": "]"}
_QUOTES |= {"'": "'", "\u2018": "\u2019"}
_EMPHASIS = re.compile(r"\A(?P<mark>\*\*\*|\*\*|__|\*|_)(?P<text>[^*\n]+)(?P=mark)\Z")
_BULLET = re.compile(r"\A(?:[-*\u2022>]|\d{1,2}[.)])[ \t]+(?=\S)")


def unwrap(text: str, raw: str = "") -> tuple[str, tuple[str, ...]]:
    """Take off what a model put around the text that was asked for.

    What the raw text has, too, is the user's own and stays: quotation marks round all of it, a list, a note.

    Args:
        text: an answer, without reasoning.
        raw: what the text is about: the prompt that was to be rewritten.

    Returns:
        The text alone, empty if there was nothing but wrapping, and what was taken off, by name.
    """
    text = text.strip()
    taken: dict[str, None] = {}
    own = {name for name, take_off in _LAYERS.items() if take_off(raw.strip()).strip() != raw.strip()}
    for _ in range(MAX_LAYERS):
        before = text
        for name, take_off in _LAYERS.items():
            left = text if name in own else take_off(text).strip()
            if left != text:
                text = left
                taken[name] = None
        if text == before:
            break
    return text, tuple(taken)


def _marks(text: str) -> str:
    return _CLOSED.split(_OPENED.sub("", text), maxsplit=1)[0]


def _code(text: str) -> str:
    """The one fenced block of a text, whatever stands around it."""
    blocks = list(_FENCE.finditer(text))
    if len(blocks) == 1:
        return blocks[0]["text"]
    whole = _IN_CODE.match(text)
    return whole["text"] if whole else _FENCE_LEFT_OPEN.sub("", text)


def _tag(text: str) -> str:
    tags = list(_TAG.finditer(text))
    return tags[0]["text"] if len(tags) == 1 else text


def _json(text: str) -> str:
    """The one text of a JSON object or list; that of a negative prompt does not count."""
    if text[:1] not in ("{", "["):
        return text
    try:
        texts = list(_texts(json.loads(text, strict=False)))
    except (ValueError, RecursionError):
        return text
    return texts[0] if len(texts) == 1 else text


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str) and value.strip():
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if "negative" not in key.lower():
                yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _heading(text: str) -> str:
    """Without the first line, if it is the only heading."""
    less = _TITLE.sub("", text, count=1)
    return text if _HEADING.search(less) else less


def _quotes(text: str) -> str:
    """Without the quotation marks round all of it; those that only begin and end it are the text's own."""
    ends = _QUOTES.get(text[:1], "")
    inner = text[1:-1]
    if len(text) < 3 or text[-1] not in ends or text[0] in inner.replace("\u2019", ""):
        return text
    if text[0] in "'\u2018":  # an apostrophe is no end
        inner = re.sub(r"\w['\u2019]\w", "", inner)
    return text if any(end in inner for end in ends) else text[1:-1]


def _bullet(text: str) -> str:
    return text if "\n" in text else _BULLET.sub("", text)


def _without(*patterns: re.Pattern[str]) -> Callable[[str], str]:
    def take_off(text: str) -> str:
        for pattern in patterns:
            text = pattern.sub("", text, count=1)
        return text

    return take_off


def _emphasis(text: str) -> str:
    whole = _EMPHASIS.match(text)
    return whole["text"] if whole else text


# In the order in which they are taken off, from the outside.
_LAYERS: dict[str, Callable[[str], str]] = {
    "marks between turns": _marks,
    "a further turn": _without(_NEXT_TURN),
    "a role": _without(_ROLE),
    "a code fence": _code,
    "a tag": _tag,
    "JSON": _json,
    "an echo of the request": _without(_ECHO),
    "a preamble": _without(_YES, _HERE, _IS_THIS, _HERE_LINE),
    "a heading": _heading,
    "a label": _without(_LABEL),
    "a negative prompt": _without(_NEGATIVE),
    "a note": _without(_NOTE),
    "a remark": _without(_REMARK),
    "quotation marks": _quotes,
    "emphasis": _emphasis,
    "a bullet": _bullet,
}
