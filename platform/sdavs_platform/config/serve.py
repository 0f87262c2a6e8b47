"""The endpoint's part of the config tree: limits, copies, and how a new version takes over."""

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from sdavs_platform.config.section import Section, Share


class RolloutConfig(Section):
    """How a new version takes over: what it must show, and to how much of the traffic. docs/rollout.md"""

    poll_s: Annotated[float, Field(gt=0)] = 2.0
    """Seconds between looks at the alias; a nudge makes the next one come at once."""

    verify_timeout_s: Annotated[float, Field(gt=0)] = 900.0
    """Longest download and check of a version, in seconds."""

    load_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Longest load and warm-up, in seconds; also how long a lost copy may take to come back."""

    golden_tolerance: Annotated[float, Field(gt=0)] = 1e-3
    """Largest difference of the golden clips' logits from the stored ones, relative to the largest stored
    logit. fp32 on another machine differs by 1e-5; a GPU with TF32 needs about 1e-2."""

    shadow_share: Share = 0.25
    """Share of the windows that are also answered by the other version, for comparison alone."""

    canary_weights: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.05, 0.25, 0.5)
    """Share of the requests that the new version answers, step by step; then comes the switch."""

    step_seconds: Annotated[float, Field(ge=0)] = 5.0
    """Shortest time of the shadow and of each canary step; longer than the autoscaler's delay where it matters."""

    step_samples: Annotated[int, Field(ge=1)] = 20
    """Answers of either version, at least, by which the shadow and each canary step are judged."""

    step_timeout_s: Annotated[float, Field(gt=0)] = 3600.0
    """A step that has not got its answers after so many seconds refuses the version."""

    probe_after_s: Annotated[float, Field(gt=0)] = 1.0
    """Without traffic for this long, golden clips are sent to both versions in its place."""

    max_error_rate: Share = 0.02
    """Share of a step's answers by the new version that may be errors."""

    max_latency_ratio: Annotated[float, Field(gt=1)] = 1.5
    """95th percentile of the new version's time a window over the old one's; the median among few answers."""

    latency_slack_ms: Annotated[float, Field(ge=0)] = 50.0
    """Milliseconds by which the new version may always be slower: small models' times are mostly noise."""

    max_disagreement: Share = 0.5
    """Mean of 1 - IoU of both versions' masks. A better model differs; a broken one differs more. 1 never refuses."""

    max_restarts: Annotated[int, Field(ge=0)] = 2
    """How often copies of the new version may be lost once it was loaded; each time it is loaded again, and the
    step begins anew."""

    @field_validator("canary_weights")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("must rise without repeats")
        return value


class ServeConfig(Section):
    """The endpoint. Read by sdavs_serve, ignored by training."""

    model_uri: str = "models:/sdavs@champion"
    """MLflow model to serve. With an alias the endpoint follows it; a number stays."""

    host: str = "127.0.0.1"
    """Address to listen on; the default is reachable from this machine only."""

    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """TCP port."""

    tracking_uri: str | None = None
    """MLflow to load the model from. Unset: as tracking.uri."""

    require_keys: bool | None = None
    """Whether requests need an API key. Unset: unless `host` is a loopback address."""

    keys_file: str | None = None
    """File with the keys' digests, written by jobs/keys.py; on every node that has an ingress. Unset:
    keys.json in the state folder."""

    webhook_secret_file: str | None = None
    """File with the secret of the MLflow webhook that may call /v1/rollout/nudge without a key. Unset: none may."""

    max_upload_mb: Annotated[float, Field(gt=0)] = 64.0
    """Largest accepted request body, in megabytes."""

    max_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Longest accepted clip, in seconds."""

    max_frames: Annotated[int, Field(ge=1)] = 600
    """Most frames sampled from one clip, or pictures in one request."""

    max_pixels: Annotated[int, Field(ge=1)] = 3840 * 2160
    """Largest accepted picture, in pixels (width times height)."""

    decoder_memory_mb: Annotated[float, Field(gt=0)] = 1024.0
    """Memory, in megabytes, that the process that decodes one upload may take; more gets 413."""

    decoder_cpu_s: Annotated[float, Field(gt=0)] = 60.0
    """Processor time, in seconds, that it may take; more gets 413."""

    max_requests: Annotated[int, Field(ge=1)] = 8
    """Requests in work at once in one ingress; one more gets 429 with Retry-After."""

    max_queued: Annotated[int, Field(ge=1)] = 32
    """Windows of clips that may wait for a model copy in one ingress; one more gets 503 with Retry-After."""

    ingress_replicas: Annotated[int, Field(ge=1)] = 1
    """Copies of the HTTP side; with two a killed one costs no more than the requests it had."""

    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Longest time for one answer, in seconds; then 504."""

    fps: Annotated[float, Field(gt=0)] = 1.0
    """Masks per second of video where the request does not say; the model was trained at 1."""

    max_batch_frames: Annotated[int, Field(ge=1)] = 20
    """Frames that one forward pass may hold, over all requests in it; at least the model's num_frames."""

    batch_wait_ms: Annotated[float, Field(ge=0)] = 10.0
    """How long a request waits for company, in milliseconds."""

    min_replicas: Annotated[int, Field(ge=0)] = 1
    """Model copies kept when idle."""

    max_replicas: Annotated[int, Field(ge=1)] = 1
    """Model copies under load."""

    scale_up_after_s: Annotated[float, Field(ge=0)] = 30.0
    """How long more copies must have been called for before one is added, in seconds: when more than half of
    max_requests are in work or wait, for each copy."""

    scale_down_after_s: Annotated[float, Field(ge=0)] = 600.0
    """How long fewer must have been enough before one is taken away, in seconds; loading one again costs more."""

    num_cpus: Annotated[float, Field(gt=0)] = 0.5
    """CPU cores leased for one copy. Two versions are held at once and one of them idles, so a half each."""

    num_gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of one copy, 0 for none; fractions share a card. Two versions are held at once: 0.5 fits both on one."""

    cpu_fallback: bool = True
    """With num_gpus on a cluster that has no GPU: serve on CPUs, and say so; else wait for a GPU."""

    rollout: RolloutConfig = RolloutConfig()
    """How a new version takes over."""

    @model_validator(mode="after")
    def _replicas_in_order(self) -> "ServeConfig":
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas: {self.max_replicas} is below min_replicas; allowed: from {self.min_replicas}"
            )
        return self
