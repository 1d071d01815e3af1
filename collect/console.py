"""What commands print: text is data, whoever wrote it, and secrets are not in it."""

import logging
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from data_modules.secrets import redacted
from data_modules.text import shown


class PlainConsole(Console):
    """A console that takes nothing in a text for markup or emoji, and shows what a terminal would obey.

    Args:
        **kwargs: of :class:`rich.console.Console`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(markup=False, emoji=False, **kwargs)

    def render_str(self, text: str, **kwargs: Any) -> Text:
        """Lay out what will be shown, escapes included, so that tables stay straight."""
        return super().render_str(shown(redacted(text)), **kwargs)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Show what is left of what a terminal would obey, such as in a text that came with styles."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(redacted(segment.text)), segment.style)


class PlainFormatter(logging.Formatter):
    """Log lines in which a terminal has nothing to obey."""

    def format(self, record: logging.LogRecord) -> str:
        """Escape the line once it is whole."""
        return shown(redacted(super().format(record)))
