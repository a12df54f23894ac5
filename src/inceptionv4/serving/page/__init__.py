"""The web page: one file, which fetches nothing but answers."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class Page:
    """HTML, and the content security policy under which a browser runs its own script and style and nothing else."""

    content: str
    policy: str


def load_page() -> Page:
    """The page as it is in this package."""
    content = resources.files(__name__).joinpath("index.html").read_text(encoding="utf-8")
    return Page(
        content,
        f"default-src 'none'; style-src {_hash(content, 'style')}; script-src {_hash(content, 'script')}; "
        "img-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    )


def _hash(content: str, element: str) -> str:
    """By which the policy knows the page's one element of that kind."""
    (inside,) = re.findall(rf"<{element}>(.*?)</{element}>", content, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"
