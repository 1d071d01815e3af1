"""``python -m train {fit,validate,test,export} --config CONFIG``."""

import logging
import sys

from lightning.fabric.utilities.exceptions import MisconfigurationException

from data_modules.secrets import redacted
from data_modules.text import shown
from train.cli import main
from train.quiet import silence


def run() -> int:
    """Run the command line; a user's mistake, Lightning's word for it or ours, is one line and exit code 2."""
    try:
        main()
    except (ValueError, OSError, MisconfigurationException) as error:
        logging.getLogger(__name__).debug("stopped by", exc_info=True)
        sys.stderr.write(f"error: {shown(redacted(str(error)))}\n")
        return 2
    return 0


if __name__ == "__main__":
    silence()
    sys.exit(run())
