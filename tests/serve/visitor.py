"""What a visitor does on the page, through a real Chromium."""

import base64
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from sdavs_serve.page.routes import POLICY
from waiting import patience


def opened_page(browser: Browser, address: str, key: str, **device: object) -> Iterator[Page]:
    """The page with a key; whatever a test does with it, it must stay on its own origin and throw nothing."""
    context = browser.new_context(accept_downloads=True, **device)
    context.add_init_script(f"sessionStorage.setItem('sdavs-api-key', '{key}')")
    context.set_default_timeout(patience(60_000))
    page = context.new_page()
    addresses, errors = [], []
    context.on("request", lambda request: addresses.append(request.url))
    page.on("pageerror", lambda error: errors.append(error))
    answer = page.goto(address)
    assert answer.headers["content-security-policy"] == POLICY
    expect(page.locator("[data-sample]")).to_have_count(4)
    yield page
    context.close()
    assert [a for a in addresses if not a.startswith((f"{address}/", f"blob:{address}/"))] == []
    assert len(addresses) > 10
    assert errors == []


def give(page: Page, name: str, content: bytes) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "video/mp4", "buffer": content})


def drawn(page: Page) -> np.ndarray:
    """[H, W, 3] uint8: what the canvas shows."""
    png = page.evaluate("canvas.toDataURL('image/png')").partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"))


def show(page: Page, frame: int, of: int) -> None:
    page.locator("#time").focus()
    page.keyboard.press("Home")
    for _ in range(frame):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#frame-facts")).to_contain_text(f"{frame + 1} of {of}")


def set_opacity(page: Page, key: str) -> None:
    page.locator("#opacity").focus()
    page.keyboard.press(key)
    expect(page.locator("#opacity-value")).to_have_text({"Home": "0 %", "End": "100 %"}[key])
