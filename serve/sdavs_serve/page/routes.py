"""Routes of the page and of the API's docs: `/`, its files, its sample clips, the limits that it shows, and `/docs`."""

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

DOCS_FILES = ("swagger-ui.css", "swagger-ui-bundle.js")
"""Files of fastapi_offline that are served."""

DOCS_POLICY = POLICY.replace("img-src 'self'", "img-src 'self' data:").replace(
    "style-src 'self'", "style-src 'self' 'unsafe-inline'"
)
"""The page's policy, and the inline pictures and styles of Swagger UI."""


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


def add_docs(app: FastAPI) -> None:
    """Add `GET /docs`: Swagger UI from files of this endpoint, as FastAPI's own page loads them from a CDN."""
    shipped = resources.files("fastapi_offline").joinpath("static")
    files = {name: shipped.joinpath(name).read_bytes() for name in DOCS_FILES}
    page = resources.files(__package__).joinpath("static", "docs.html").read_bytes()

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        headers = HEADERS | {"Content-Security-Policy": DOCS_POLICY}
        return Response(page, media_type=MEDIA_TYPES["html"], headers=headers)

    @app.get("/docs/{name}", include_in_schema=False)
    async def docs_file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, f"there is no file {name}")
        return Response(files[name], media_type=MEDIA_TYPES[name.rpartition(".")[2]], headers=HEADERS)


def _answer(request: Request, name: str, content: bytes) -> Response:
    """A file, or 304 if the browser has it: because of Cache-Control it revalidates every time."""
    headers = HEADERS | {"ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if headers["ETag"] in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=MEDIA_TYPES[name.rpartition(".")[2]], headers=headers)
