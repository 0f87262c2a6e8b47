"""`GET /docs`: Swagger UI from files of this endpoint; FastAPI's own page loads them from a CDN."""

from importlib import resources

from fastapi import FastAPI
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from sdavs_serve.page.routes import HEADERS, MEDIA_TYPES, POLICY

FILES = ("swagger-ui.css", "swagger-ui-bundle.js")
"""Files of fastapi_offline that are served."""

DOCS_POLICY = POLICY.replace("img-src 'self'", "img-src 'self' data:").replace(
    "style-src 'self'", "style-src 'self' 'unsafe-inline'"
)
"""The page's policy, and the inline pictures and styles of Swagger UI."""


def add_docs(app: FastAPI) -> None:
    """Add `GET /docs` to an app that was made without FastAPI's own pages."""
    shipped = resources.files("fastapi_offline").joinpath("static")
    files = {name: shipped.joinpath(name).read_bytes() for name in FILES}
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
