"""Routes of the page: `/`, its files, its sample clips, and the endpoint's limits that it shows."""

import asyncio
import hashlib
from importlib import resources

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from sdavs_platform.config.serve import ServeConfig
from starlette.exceptions import HTTPException

from sdavs_model.data.realav.asset_library import ASSETS_FOLDER
from sdavs_serve.page.samples import SAMPLES, SampleClips

MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "jpg": "image/jpeg",
    "mp4": "video/mp4",
    "md": "text/plain; charset=utf-8",
}

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        # blob: a file that the visitor chose or downloaded, inside the browser.
        "img-src 'self' blob:",
        "media-src 'self' blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Content-Security-Policy: this origin and nothing else, no inline script or style."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI, config: ServeConfig) -> None:
    """Add the page to `app`.

    Args:
        app: gets the routes, which are not part of the API and not in its description.
        config: holds the limits that the page shows.
    """
    # Read once: a request's path is looked up here and never becomes a path on disk.
    static = {
        file.name: file.read_bytes() for file in resources.files(__package__).joinpath("static").iterdir()
    }
    static["credits.md"] = (ASSETS_FOLDER / "ATTRIBUTION.md").read_bytes()
    clips = SampleClips()

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return _answer(request, "index.html", static["index.html"])

    @app.get("/page/setup.json", include_in_schema=False)
    async def setup() -> Response:
        samples = [{"name": name, "title": s.title, "about": s.about} for name, s in SAMPLES.items()]
        limits = {"max_upload_mb": config.max_upload_mb, "max_seconds": config.max_seconds}
        return JSONResponse({"samples": samples, "limits": limits, "fps": config.fps}, headers=HEADERS)

    @app.get("/page/samples/{name}", include_in_schema=False)
    async def sample(request: Request, name: str) -> Response:
        stem, _, ending = name.partition(".")
        if stem not in SAMPLES or ending not in ("mp4", "jpg"):
            raise HTTPException(404, f"there is no sample {name}")
        files = await asyncio.to_thread(clips.files, stem)
        return _answer(request, name, files.video if ending == "mp4" else files.poster)

    @app.get("/page/{name}", include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        if name not in static:
            raise HTTPException(404, f"there is no file {name}")
        return _answer(request, name, static[name])


def _answer(request: Request, name: str, content: bytes) -> Response:
    """A file, or 304 if the browser has it: it asks every time, because of Cache-Control."""
    headers = HEADERS | {"ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if headers["ETag"] in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=MEDIA_TYPES[name.rpartition(".")[2]], headers=headers)
