"""JSON documents of the endpoint. The OpenAPI description is made from these docstrings and examples."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """Base class: the docstring under each field is its description."""

    model_config = ConfigDict(use_attribute_docstrings=True, protected_namespaces=(), frozen=True)


class Rle(Answer):
    """A mask as COCO's compressed run-length encoding (columns first), as pycocotools decodes it."""

    size: tuple[int, int]
    """Height and width in pixels."""
    counts: str
    """Compressed run lengths."""


class ModelInfo(Answer):
    """The model that made the masks."""

    name: str
    """Registered name."""
    version: str
    """Registered version."""
    alias: str | None
    """Alias that points to it; null if none is followed or it points elsewhere."""
    run_id: str
    """MLflow run that trained it."""
    data_digest: str
    """Digest of the data set it was trained on; empty if not recorded."""
    sha256: str
    """Digest of its weights, checked before loading."""


class ClassMask(Answer):
    """One class in one frame, from semantic models only."""

    index: int
    """Value of the class, from 1."""
    name: str
    """Its name."""
    rle: Rle
    """The mask."""
    score: float
    """Mean probability inside the mask."""
    area: float
    """Fraction of the frame that the mask covers, 0 to 1."""


class HeardSound(Answer):
    """One of the classes that are nearest to the sound of a frame, from models that derive them (DDESeg)."""

    name: str
    """Its name in the model's bank of audio semantics."""
    seen: float
    """How much of its sound the model finds in the picture, 0 to 1; low: heard, but not seen (off screen)."""
    distance: float
    """How far the sound is from the class, in the audio encoder's embedding; there are always as many classes."""


class FrameMask(Answer):
    """Mask of what is making the sound in one frame."""

    index: int
    """Position in the response, from 0."""
    time_s: float
    """Moment of the frame, in seconds from the start of the clip."""
    size: tuple[int, int]
    """Height and width of the frame, and of its mask, in pixels."""
    rle: Rle
    """The mask."""
    score: float
    """Mean probability inside the mask; 0 where the mask is empty."""
    area: float
    """Fraction of the frame that the mask covers, 0 to 1."""
    classes: list[ClassMask] | None = None
    """Each class in the frame; null from a binary model. `rle` is all of them together."""
    sounds: list[HeardSound] | None = None
    """Classes heard, nearest first; null from models that do not report them."""


class Timings(Answer):
    """Duration of each part of the request, in milliseconds."""

    decode: float
    """Reading the upload."""
    model: float
    """Waiting for and running the model."""
    encode: float
    """Writing masks."""
    total: float
    """From the complete upload to the complete response."""


class Timeline(Answer):
    """Where the tracks of an uploaded video end, in seconds from the start of the first one.

    Frames cover the longer one: the last picture is held while the sound continues; silence follows a shorter sound.
    """

    picture_end_s: float
    sound_end_s: float
    """End of its own sound, also if it was replaced; 0 if it has none."""


class AnswerHead(Answer):
    """The part of a response that applies to all its frames."""

    model: ModelInfo
    fps: float
    """Frames sampled a second; frame i covers the time from i / fps to (i + 1) / fps."""
    threshold: float | None
    """Probability above which a pixel belongs to the mask; null from a semantic model, which assigns the most
    probable class."""


class SegmentAnswer(AnswerHead):
    """The response of POST /v1/segment: one mask for each sampled frame, in order of time."""

    frames: list[FrameMask]
    timeline: Timeline | None = None
    """Null if pictures were uploaded instead of a video."""
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
                "timeline": {"picture_end_s": 1.0, "sound_end_s": 1.0},
                "timings_ms": {"decode": 12.0, "model": 85.0, "encode": 3.0, "total": 100.0},
            }
        }
    )


class ModelStatus(Answer):
    """The response of GET /v1/model."""

    model: ModelInfo
    architecture: str
    """Name of the model's architecture."""
    backbone: str
    """Visual backbone."""
    image_size: int
    """Side of the model's square input, in pixels; masks come in the size of the upload all the same."""
    num_frames: int
    """Frames that the model processes at once."""
    classes: list[str]
    """Names of the mask values, background first."""
    metrics: dict[str, Any]
    """Scores of the model from before it was registered."""
    device: str
    """Device that it runs on."""
    refused: str | None = None
    """Why the version that the alias points to does not serve; null if it does."""


class Health(Answer):
    """The response of the probes."""

    status: Literal["ok", "not ready"]
    detail: str | None = None
    """What is missing."""


class Problem(Answer):
    """Any error, as defined by RFC 9457 (`application/problem+json`)."""

    type: str = Field(examples=["urn:sdavs:problem:too_large"])
    """Stable name of the problem, for programs."""
    title: str = Field(examples=["Content Too Large"])
    """The HTTP status in words."""
    status: int = Field(examples=[413])
    """The HTTP status."""
    detail: str = Field(examples=["75 s long or longer; allowed: 60 s"])
    """One sentence for people."""
    limit: str | None = Field(default=None, examples=["max_seconds"])
    """Limit that was exceeded: a key of the endpoint's config, or of the API key (at_once, per_minute, per_day)."""
    field: str | None = Field(default=None, examples=["video"])
    """Form field at fault."""
    request_id: str | None = None
    """As in the X-Request-Id header."""


JobState = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED_JOB: tuple[JobState, ...] = ("done", "failed", "cancelled")


class JobStatus(Answer):
    """The response of GET /v1/jobs/{job_id}."""

    id: str
    state: JobState
    created: float
    """Unix time, as all times of a job."""
    started: float | None = None
    """When it was last taken up."""
    ended: float | None = None
    expires: float
    """When the job and its results are removed."""
    num_frames: int = 0
    """Frames that are ready."""
    results: tuple[str, ...] = ()
    """Media types of the result, once it is done."""
    model_version: str | None = None
    """The version that made the masks."""
    problem: Problem | None = None
    """Why it failed."""
