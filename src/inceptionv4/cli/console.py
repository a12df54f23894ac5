"""What commands share: flags, and how answers and complaints are printed."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

from cyclopts import Parameter

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]


def print_json(value: object) -> None:
    print(json.dumps(value))


def speaks() -> bool:
    """Whether this process is the one, of those that `torchrun` started, that says what all of them have to say."""
    return os.environ.get("RANK", "0") == "0"


def complain(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
