"""The page at `/`: one HTML file that fetches what it shows from the other paths of this server.

It loads nothing from other hosts. Its Content-Security-Policy allows only its own script and style, by their hashes, so
text of a dataset can never run as code, even if the script by mistake did not treat it as text.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources

from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response

__all__ = ["add"]


def add(app: FastAPI) -> None:
    """Add the path of the page."""
    html = resources.files("service.page").joinpath("page.html").read_text(encoding="utf-8")
    headers = {
        "content-security-policy": content_security_policy(html),
        "cache-control": "no-cache",
        "x-content-type-options": "nosniff",
    }

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return HTMLResponse(html, headers=headers)


def content_security_policy(html: str) -> str:
    """A policy that allows the script and the style in this HTML, and requests to this server."""

    def source(tag: str) -> str:
        blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        hashes = (base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks)
        return " ".join(f"'sha256-{value}'" for value in hashes)

    return (
        f"default-src 'none'; script-src {source('script')}; style-src {source('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
