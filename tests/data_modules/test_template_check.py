"""Chat templates of strangers end, or are refused in one line."""

from types import SimpleNamespace

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

import data_modules.template_check
from data_modules.template_check import check_template

GOOD = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)


class Tokenizer(SimpleNamespace):
    """What renders, as transformers renders it."""

    name_or_path = "some/model"

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        rendered, _ = render_jinja_template(
            [messages], chat_template=self.template, add_generation_prompt=add_generation_prompt
        )
        return rendered[0]


def test_a_template_that_writes_what_is_said_will_do() -> None:
    check_template(Tokenizer(template=GOOD))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ ''.__class__.__mro__ }}", "SecurityError: access to attribute '__class__'"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "SecurityError"),
        ("{{ lipsum.__globals__.os }}", "SecurityError"),
        ("{{ raise_exception('no \x1b]0;owned\x07 [/red]\nhere') }}", r"no \\x1b.*owned.*\[/red\] here"),
        ("{{ 1 +", "TemplateSyntaxError"),
        ("", "leaves out what is said"),
        ("always the same", "leaves out what is said"),
        ("{% for i in range(1000000000) %}{% endfor %}", "OverflowError: Range too big"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages + 1 }}", "TypeError"),
        ("{{ 'x' * 10000000000 }}", r"MemoryError|does not end within"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "does not end within 0.5 seconds",
        ),
    ],
)
def test_one_that_fails_or_never_ends_is_refused(template: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_modules.template_check, "TIME_LIMIT", 0.5)
    with pytest.raises(ValueError, match=message) as refused:
        check_template(Tokenizer(template=template))
    told = str(refused.value)
    assert told.startswith("the chat template of some/model ")
    assert told.endswith("; take another model, or mend its chat_template.jinja.")
    assert "\n" not in told
    assert "\x1b" not in told
