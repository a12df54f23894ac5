"""What commands share: flags, and how answers and complaints are printed."""

from __future__ import annotations

import json
import sys
from typing import Annotated

from cyclopts import Parameter

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]


def print_json(value: object) -> None:
    print(json.dumps(value))


def complain(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
