"""The page as a visitor meets it: a real Chromium, the real endpoint, and a look at the pixels."""

import io
import threading
import zipfile

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import expect
from sdavs_platform.config.tree import ServeConfig
from sdavs_serve.http.auth import Authentication
from sdavs_serve.http.keys import KeyFile
from sdavs_serve.http.problems import handle_problems
from sdavs_serve.page.routes import add_page
from stack import free_port, mask_of
from visitor import drawn, give, set_opacity, show
from waiting import patience

MARK = np.array([255, 48, 64])

UNNAMED = """[...document.querySelectorAll("input, select, button")].filter(
    e => e.checkVisibility() && !e.labels?.length && !e.ariaLabel && !e.textContent.trim()).map(e => e.outerHTML)"""


def test_every_frame_of_an_upload_is_drawn_with_exactly_the_endpoints_mask(opened, stack, make_video):
    video = make_video(3)
    masks = [mask_of(frame) for frame in stack.post(video=video).json()["frames"]]
    assert 0 < np.mean(masks) < 1, "an empty or full mask would prove nothing"
    give(opened, "clip.mp4", video)
    expect(opened.locator("#clip-name")).to_have_text("clip.mp4")
    num_compared = {0: 0, 1: 0}
    for index, mask in enumerate(masks):
        show(opened, index, len(masks))
        set_opacity(opened, "Home")
        picture = drawn(opened)
        assert picture.std() > 5, "the video's own picture is there"
        set_opacity(opened, "End")
        marked = drawn(opened)
        scale = marked.shape[1] // mask.shape[1]
        # Scaling blurs the mask's edge by a pixel of the video, so only what is further away is compared.
        padded = np.pad(mask, 1, mode="edge")
        around = [padded[y : y + mask.shape[0], x : x + mask.shape[1]] for y in range(3) for x in range(3)]
        for value, wanted in ((1, np.broadcast_to(MARK, marked.shape)), (0, picture)):
            sure = np.kron(np.all([part == value for part in around], axis=0), np.ones((scale, scale), bool))
            assert np.abs(marked[sure].astype(int) - wanted[sure]).max(initial=0) <= 2
            num_compared[value] += sure.sum()
    assert all(num_compared.values())


def test_a_bad_file_is_explained_and_nothing_is_lost(opened, make_video):
    give(opened, "text.mp4", b"not a video")
    expect(opened.get_by_role("alert").first).to_contain_text("text.mp4: Unsupported Media Type.")
    give(opened, "clip.mp4", make_video(2))
    expect(opened.locator("#clip-name")).to_have_text("clip.mp4")
    expect(opened.locator("#problem")).to_be_hidden()
    give(opened, "long.mp4", make_video(7))
    expect(opened.locator("#problem")).to_contain_text("7 s long or longer; allowed: 5 s")
    give(opened, "big.mp4", bytes(1_500_000))
    expect(opened.locator("#problem")).to_contain_text("1.5 MB; allowed: 1 MB")
    expect(opened.locator("#clip-name")).to_have_text("clip.mp4")
    expect(opened.locator("#frame-facts")).to_contain_text("1 of 2")


def test_muted_and_swapped_sound_are_asked_for_and_compared(opened, stack, make_wav):
    """All three of one version, also while another one takes over."""
    pins: list[str | None] = []
    is_clip = "/v1/segment"
    opened.on(
        "request",
        lambda sent: pins.append(sent.headers.get("x-model-version")) if sent.url.endswith(is_clip) else None,
    )
    opened.locator("[data-sample=turns]").click()
    expect(opened.locator(".row.bars")).to_have_count(1)
    clip = httpx.get(f"{stack.address}/page/samples/turns.mp4").content
    other = httpx.get(f"{stack.address}/page/samples/one-of-two.mp4").content
    own = stack.post(video=clip).json()["frames"]
    for listening, sound in (("muted", make_wav(np.zeros(80_000))), ("swapped", other)):
        opened.locator(f"[name=listen][value={listening}]").focus()
        opened.keyboard.press("Space")
        expect(opened.locator(f"[name=listen][value={listening}]")).to_be_checked()
        expect(opened.locator(".row.bars")).to_have_count(2 if listening == "muted" else 3)
        expected = stack.post(video=clip, audio=sound).json()["frames"]
        assert [frame["rle"] for frame in expected] != [frame["rle"] for frame in own]
        show(opened, 4, of=5)
        score = f"{expected[4]['score']:.2f}" if expected[4]["area"] else "none"
        expect(opened.locator("#frame-facts")).to_contain_text(f"Score{score}")
    opened.locator("[name=listen][value=own]").focus()
    opened.keyboard.press("Space")
    expect(opened.locator(".row.current")).to_have_text("Own sound")
    assert pins == [None, *2 * [str(stack.serving())]], "the first response names the version of the others"


def test_a_video_that_the_browser_cannot_play_is_shown_as_the_endpoints_overlay(opened, make_video):
    give(opened, "clip.mov", make_video(2, kind="mov"))  # MPEG-4 part 2, which no browser plays
    expect(opened.locator("#listen-explain")).to_contain_text("endpoint's overlay video")
    assert drawn(opened).std() > 5


def test_masks_are_downloaded_as_a_zip(opened, make_video, tmp_path):
    give(opened, "clip.mp4", make_video(2))
    with opened.expect_download() as download:
        opened.locator("[data-download='application/zip']").click()
    assert download.value.suggested_filename == "clip-masks.zip"
    archive = zipfile.ZipFile(io.BytesIO(download.value.path().read_bytes()))
    assert archive.namelist() == ["00000.png", "00001.png", "segmentation.json"]


def test_on_a_phone_everything_works_by_keyboard_and_nothing_hangs_over(on_phone, make_video):
    seen = []
    with on_phone.expect_file_chooser() as chooser:
        for _ in range(12):
            on_phone.keyboard.press("Tab")
            seen.append(on_phone.evaluate("document.activeElement.textContent.trim()"))
            if seen[-1] == "Choose a video":
                break
        on_phone.keyboard.press("Enter")
    assert seen[0] == "Skip to the clip"
    chooser.value.set_files({"name": "clip.mp4", "mimeType": "video/mp4", "buffer": make_video(4)})
    expect(on_phone.locator("#clip-name")).to_have_text("clip.mp4")
    on_phone.keyboard.press("Space")
    expect(on_phone.locator("#play")).to_have_attribute("aria-label", "Pause")
    expect(on_phone.locator("#frame-facts")).to_contain_text("2 of 4")
    on_phone.keyboard.press("k")
    expect(on_phone.locator("#play")).to_have_attribute("aria-label", "Play")
    assert on_phone.evaluate("document.documentElement.scrollWidth") == 390
    on_phone.locator("#model summary").click()
    facts = on_phone.locator("#model-facts").bounding_box()
    assert facts["x"] >= 0
    assert facts["x"] + facts["width"] <= 390
    assert on_phone.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 20, 23)"
    assert on_phone.evaluate(UNNAMED) == []


def test_a_rollout_is_watched_as_it_happens(opened, stack):
    served = stack.state().served.version
    expect(opened.locator("#model-name")).to_have_text(f"sdavs {served} @champion")
    expect(opened.locator("#rollout-state")).to_have_text(f"Version {served} serves, following @champion.")
    expect(opened.locator("#rollout-phases")).to_be_hidden()
    version = stack.register()
    stack.promote(version)
    expect(opened.locator("#rollout-state")).to_contain_text(f"Rolling out version {version}")
    expect(opened.locator("#rollout-phases [aria-current=step]")).to_be_visible()
    done = f"Version {version} serves, following @champion."
    expect(opened.locator("#rollout-state")).to_have_text(done, timeout=patience(90_000))
    expect(opened.locator("#model-name")).to_have_text(f"sdavs {version} @champion")
    expect(opened.locator("#rollout-gates")).to_contain_text("golden passed")
    expect(opened.locator("#rollout-weights")).to_contain_text(f"Version {version}100 %")
    expect(opened.locator("#rollout-history li")).to_have_count(len(stack.state().history))


def test_a_key_is_asked_for_kept_in_the_tab_and_sent(browser, tmp_path):
    keys = KeyFile(tmp_path / "keys.json")
    token = keys.add("segment")
    app = FastAPI()
    app.add_middleware(Authentication, keys=keys)
    handle_problems(app)
    add_page(app, ServeConfig())
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        threading.Event().wait(0.05)
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        expect(page.locator("#problem")).to_contain_text("Unauthorized")
        page.locator("#problem-retry").click()
        with page.expect_request(lambda request: request.headers.get("authorization") == f"Bearer {token}"):
            page.locator("#key").fill(token)
            page.keyboard.press("Enter")
        # This app has no model: the key is good, and what is missing now is the address.
        expect(page.locator("#problem")).to_contain_text("Not Found")
        expect(page.locator("#rollout")).to_be_hidden()
        kept = "[Object.values(sessionStorage), Object.values(localStorage), document.cookie]"
        assert page.evaluate(kept) == [[token], [], ""]
    finally:
        context.close()
        server.should_exit = True
        thread.join()
