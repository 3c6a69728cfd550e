"""Signing in at the dashboard as a browser does: the page first, then its form."""

from __future__ import annotations

import re

import httpx2


async def sign_in(browser: httpx2.AsyncClient, key: str, then: str = "/", **headers: str) -> httpx2.Response:
    """The answer to the login form of this browser."""
    page = await browser.get("/login", params={"next": then})
    token = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert token is not None, page.text
    return await browser.post("/login", params={"next": then}, data={"key": key, "csrf": token[1]}, headers=headers)
