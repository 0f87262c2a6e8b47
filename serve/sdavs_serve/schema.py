"""The JSON that the endpoint speaks. The OpenAPI page is made of these docstrings and examples."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """Base: fields are described by the docstring under each."""

    model_config = ConfigDict(use_attribute_docstrings=True, protected_namespaces=(), frozen=True)


class Rle(Answer):
    """A mask as COCO's compressed run-length encoding (columns first), as pycocotools decodes it."""

    size: tuple[int, int]
    """Height and width in pixels."""
    counts: str
    """Compressed run lengths."""


class ModelInfo(Answer):
    """Which model answered, down to the bytes of its weights."""

    name: str
    """Registered name."""
    version: str
    """Registered version."""
    alias: str | None
    """Alias under which it was deployed; null if by number."""
    run_id: str
    """MLflow run that trained it."""
    data_digest: str
    """Digest of the data set it was trained on; empty if not recorded."""
    sha256: str
    """Digest of its weights, checked before loading."""


class ClassMask(Answer):
    """One class in one frame; only semantic models answer these."""

    index: int
    """Value of the class, from 1."""
    name: str
    """Its name."""
    rle: Rle
    """The mask."""
    score: float
    """Mean probability inside the mask."""
    area: float
    """Share of the frame that the mask covers, 0 to 1."""


class FrameMask(Answer):
    """What sounds in one frame."""

    index: int
    """Position in the answer, from 0."""
    time_s: float
    """Moment of the frame, in seconds from the start of the clip."""
    size: tuple[int, int]
    """Height and width of the frame, and of its mask, in pixels."""
    rle: Rle
    """The mask."""
    score: float
    """Mean probability inside the mask; 0 where the mask is empty."""
    area: float
    """Share of the frame that the mask covers, 0 to 1."""
    classes: list[ClassMask] | None = None
    """Each class in the frame; null from a binary model. `rle` is all of them together."""


class Timings(Answer):
    """Where the time went, in milliseconds."""

    decode: float
    """Reading the upload."""
    model: float
    """Waiting for and running the model."""
    encode: float
    """Writing masks."""
    total: float
    """From the complete upload to the answer."""


class AnswerHead(Answer):
    """What is known of an answer before its first frame."""

    model: ModelInfo
    fps: float
    """Frames sampled a second; frame i stands for the time from i / fps to (i + 1) / fps."""
    threshold: float | None
    """Probability above which a pixel belongs to the mask; null from a semantic model, which answers the most
    probable class."""


class SegmentAnswer(AnswerHead):
    """The answer of POST /v1/segment: as many masks as frames sampled, in order of time."""

    frames: list[FrameMask]
    timings_ms: Timings

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": {
                    "name": "sdavs",
                    "version": "3",
                    "alias": "champion",
                    "run_id": "0a1b2c",
                    "data_digest": "9f86d0",
                    "sha256": "2c26b4",
                },
                "fps": 1.0,
                "threshold": 0.5,
                "frames": [
                    {
                        "index": 0,
                        "time_s": 0.5,
                        "size": [4, 4],
                        "rle": {"size": [4, 4], "counts": "52203"},
                        "score": 0.91,
                        "area": 0.25,
                    }
                ],
                "timings_ms": {"decode": 12.0, "model": 85.0, "encode": 3.0, "total": 100.0},
            }
        }
    )


class ModelStatus(Answer):
    """The answer of GET /v1/model."""

    model: ModelInfo
    backbone: str
    """Visual backbone."""
    image_size: int
    """Side of the model's square input, in pixels; masks come in the size of the upload all the same."""
    num_frames: int
    """Frames that the model sees at once."""
    classes: list[str]
    """Names of the mask values, background first."""
    metrics: dict[str, Any]
    """What the model scored before it was registered."""
    device: str
    """Where it runs."""
    refused: str | None = None
    """Why the version deployed last is not the one that serves; null if it is."""


class Health(Answer):
    """The answer of the probes."""

    status: Literal["ok", "not ready"]
    detail: str | None = None
    """What is missing."""


class Problem(Answer):
    """Any error, as RFC 9457 describes it (`application/problem+json`)."""

    type: str = Field(examples=["urn:sdavs:problem:too_large"])
    """Stable name of the problem, for programs."""
    title: str = Field(examples=["Content Too Large"])
    """The HTTP status in words."""
    status: int = Field(examples=[413])
    """The HTTP status."""
    detail: str = Field(examples=["75 s long or longer; allowed: 60 s"])
    """One sentence for people."""
    limit: str | None = Field(default=None, examples=["max_seconds"])
    """Key of the endpoint's config that was exceeded."""
    field: str | None = Field(default=None, examples=["video"])
    """Form field at fault."""
    request_id: str | None = None
    """As in the X-Request-Id header."""
