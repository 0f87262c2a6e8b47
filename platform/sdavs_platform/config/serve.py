"""The endpoint's section of the config tree: limits, replicas, and rollouts."""

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from sdavs_platform.config.section import Count, CountOrZero, Fraction, NotNegative, Positive, Section


class RolloutConfig(Section):
    """Rollout of a new version: gates, and fractions of the traffic. See docs/rollout.md."""

    poll_s: Positive = 2.0
    """Seconds between look-ups of the alias; a nudge triggers one at once."""

    verify_timeout_s: Positive = 900.0
    """Longest download and check of a version, in seconds."""

    load_timeout_s: Positive = 600.0
    """Longest load and warm-up, in seconds; also how long a lost replica may take to be loaded again."""

    golden_tolerance: Positive = 1e-3
    """Largest difference of the golden clips' logits from the stored ones, relative to the largest stored
    logit. fp32 on another machine differs by 1e-5; a GPU with TF32 needs about 1e-2."""

    shadow_share: Fraction = 0.25
    """Fraction of the windows that also go to the other version, for comparison only."""

    canary_weights: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.05, 0.25, 0.5)
    """Fraction of the requests that the new version serves, step by step; the switch follows."""

    step_seconds: NotNegative = 5.0
    """Shortest duration of the shadow and of each canary step, in seconds; with autoscaling, longer than its delay."""

    step_samples: Count = 20
    """Fewest predictions of either version from which the shadow and each canary step are judged."""

    step_timeout_s: Positive = 3600.0
    """Seconds after which a step without enough predictions refuses the version."""

    bake_s: NotNegative = 300.0
    """How long the new version is watched after the switch, in seconds; if it fails, the previous version serves
    again. 0: not at all."""

    call_timeout_s: Positive = 20.0
    """Longest time in which the new version may predict one window, in seconds. Then the old version processes the
    request, and the failure counts as an error; also the time after which a replica that hangs is replaced."""

    probe_after_s: Positive = 1.0
    """Seconds without traffic after which golden clips are sent to both versions instead."""

    max_error_rate: Fraction = 0.02
    """Fraction of the new version's predictions in a step that may fail."""

    max_latency_ratio: Annotated[float, Field(gt=1)] = 1.5
    """Largest ratio of the new version's 95th percentile of latency to the old one's; medians if there are few
    predictions."""

    latency_slack_ms: NotNegative = 50.0
    """Milliseconds by which the new version may always be slower: latencies of small models are mostly noise."""

    max_disagreement: Fraction = 0.5
    """Mean of 1 - IoU of both versions' masks. A better model differs; a broken one differs more. 1: never refused."""

    max_restarts: CountOrZero = 2
    """How often replicas of the new version may be lost once it was loaded. Each time it is loaded again, and the
    step restarts."""

    @field_validator("canary_weights")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("must be strictly ascending")
        return value


class JobsConfig(Section):
    """Clips that are sent now and whose results are fetched later."""

    uri: str | None = None
    """Folder or s3:// address of the jobs, shared by all ingress replicas. Unset: jobs in the state folder."""

    keep_s: Positive = 86_400.0
    """How long a job and its results are kept after it has ended, in seconds."""

    at_once: Count = 1
    """Jobs that one ingress replica processes at the same time; they share model and CPUs with other requests."""

    max_queued: Count = 100
    """Jobs that may wait; one more gets 429 with Retry-After."""

    max_kept: Count = 1000
    """Jobs of one API key that are kept, ended ones included; one more gets 429 with Retry-After. Without keys: of all
    clients together."""

    timeout_s: Positive = 3600.0
    """Longest time of one job, in seconds."""

    webhook_hosts: tuple[str, ...] = ()
    """Hosts to which the webhook of a job may be sent. Empty: jobs may not have one."""

    webhook_secret_file: str | None = None
    """File with the secret that signs these webhooks; needed with webhook_hosts."""

    @model_validator(mode="after")
    def _webhooks_are_signed(self) -> "JobsConfig":
        if self.webhook_hosts and not self.webhook_secret_file:
            raise ValueError("webhook_secret_file: unset; webhook_hosts needs a file with a secret")
        return self


class ServeConfig(Section):
    """The endpoint. Read by sdavs_serve, ignored by training."""

    model_uri: str = "models:/sdavs@champion"
    """MLflow model to serve. The endpoint follows an alias; a version number is fixed."""

    host: str = "127.0.0.1"
    """Address to listen on; the default is reachable from this machine only."""

    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """TCP port."""

    tracking_uri: str | None = None
    """MLflow to load the model from. Unset: as tracking.uri."""

    require_keys: bool | None = None
    """Whether requests need an API key. Unset: required unless `host` is a loopback address."""

    allowed_hosts: tuple[str, ...] = ()
    """Further names of an endpoint on a loopback address without keys: there, `Host` must name the endpoint."""

    cors_origins: tuple[str, ...] = ()
    """Origins, such as https://tool.example, whose web pages may use the endpoint through a visitor's browser."""

    keys_file: str | None = None
    """File with the keys' digests, written by jobs/keys.py; on every node that has an ingress. Unset:
    keys.json in the state folder."""

    webhook_secret_file: str | None = None
    """File with the secret of the MLflow webhook that may call /v1/rollout/nudge without a key. Unset: none may."""

    max_upload_mb: Positive = 64.0
    """Largest accepted request body, in megabytes."""

    max_uploads: Count = 32
    """Uploads that one ingress replica receives at once, in addition to `max_requests`; one more gets 429 with
    Retry-After."""

    upload_timeout_s: Positive = 600.0
    """Longest time for receiving one upload, in seconds; then 408."""

    min_upload_kb_s: Positive = 8.0
    """Slowest accepted upload, in kilobytes per second on average after its first ten seconds; slower ones get 408."""

    max_seconds: Positive = 60.0
    """Longest accepted clip, in seconds."""

    max_frames: Count = 600
    """Most frames sampled from one clip, or pictures in one request."""

    max_pixels: Count = 4096 * 3072
    """Largest accepted picture, in pixels (width times height): 4K video, and photographs of 12 megapixels."""

    decoder_memory_mb: Positive = 1024.0
    """Memory, in megabytes, that the decoder of one upload may use; beyond it, 413."""

    decoder_cpu_s: Positive = 60.0
    """CPU time, in seconds, that the decoder of one upload may use; beyond it, 413."""

    max_requests: Count = 8
    """Requests that one ingress replica processes at once; one more gets 429 with Retry-After."""

    max_queued: Count = 32
    """Windows of clips that may wait for a model replica in one ingress replica; one more gets 503 with Retry-After."""

    ingress_replicas: Count = 1
    """Replicas of the ingress. With two, the loss of one affects only the requests that it was processing."""

    timeout_s: Positive = 120.0
    """Longest time for one response, in seconds; then 504."""

    fps: Positive = 1.0
    """Masks per second of video if the request does not specify it; the model was trained at 1."""

    reuse_mb: NotNegative = 256.0
    """Disk space, in megabytes, in which an ingress replica caches responses for the same clip, parameters, version
    and API key; 0: no cache."""

    max_batch_frames: Count = 20
    """Frames that one forward pass may hold, over all requests in it; at least the model's num_frames."""

    batch_wait_ms: NotNegative = 10.0
    """How long a request waits for others to fill its batch, in milliseconds. Not at all in a replica on CPUs that
    predicts several batches at once, see num_cpus."""

    min_replicas: Count = 1
    """Model replicas kept when idle."""

    max_replicas: Count = 1
    """Model replicas under load."""

    scale_up_after_s: NotNegative = 30.0
    """How long the load must have been high before a replica is added, in seconds: more than half of max_requests
    running or waiting, for each replica."""

    scale_down_after_s: NotNegative = 600.0
    """How long fewer replicas must have been enough before one is removed, in seconds; loading one again costs more."""

    num_cpus: Positive = 0.5
    """CPU cores reserved for one replica. Two versions are loaded at once and one of them idles, so a half each. A
    replica without a GPU uses idle cores of its node, too: a forward pass has a thread for each whole core that is
    reserved, and up to four passes run at once. Reserve more for a large model, whose passes take seconds."""

    num_gpus: NotNegative = 0.0
    """GPUs of one replica, 0 for none; fractions share a card. Two versions are loaded at once: 0.5 fits both on it."""

    cpu_fallback: bool = True
    """With num_gpus on a cluster without a GPU: serve on CPUs, with a warning; else wait for a GPU."""

    traces_endpoint: Annotated[str, Field(pattern="^https?://")] | None = None
    """Address of an OpenTelemetry collector (OTLP over HTTP), such as http://collector:4318. Unset: that of
    OTEL_EXPORTER_OTLP_ENDPOINT in the environment of Ray's nodes, else no traces."""

    jobs: JobsConfig = JobsConfig()
    """Clips that are sent now and whose results are fetched later."""

    rollout: RolloutConfig = RolloutConfig()
    """How a new version takes over."""

    @model_validator(mode="after")
    def _replicas_in_order(self) -> "ServeConfig":
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas: {self.max_replicas} is below min_replicas; allowed: from {self.min_replicas}"
            )
        if self.max_replicas > self.min_replicas and self.rollout.bake_s > self.scale_down_after_s:
            raise ValueError(
                f"rollout.bake_s: {self.rollout.bake_s:g} is above scale_down_after_s: the previous version would be "
                f"scaled down while it may still have to take over; allowed: up to {self.scale_down_after_s:g}"
            )
        return self
