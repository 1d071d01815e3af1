"""Secrets come from the environment, and are in nothing that is written or shown."""

import os
import re

_NAMES = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)$")
SHORTEST = 8  # characters; what is shorter is no secret, and would be found in ordinary words


def redacted(text: str) -> str:
    """A text without the value of any variable of the environment whose name is that of a secret.

    Servers repeat keys in what they answer, and so do libraries in their errors.
    """
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and value in text and _NAMES.search(name.upper()):
            text = text.replace(value, f"<{name}>")
    return text
