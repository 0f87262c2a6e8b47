"""The controller's side of the MLflow registry: look the alias up, check an artifact, write tags. Blocking."""

import hashlib
import logging
from dataclasses import dataclass
from datetime import datetime

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from sdavs_platform.config.serve import ServeConfig
from sdavs_platform.tracking.client import tracking_uri
from sdavs_platform.tracking.registry import (
    RegisteredVersion,
    check_signature,
    fetch_version,
    resolve,
    set_tags,
    versions_by_tag,
)

from sdavs_model.architectures import config_from_dict
from sdavs_model.artifact_files import check_files, read_card
from sdavs_serve.rollout.retries import with_retries
from sdavs_serve.rollout.rules import GATE_TAG, REASON_TAG, REFUSED, SERVED_TAG, STATE_TAG, TIME_TAG
from sdavs_serve.rollout.state import Failure, Refusal, Release, TagWrite, Target

logger = logging.getLogger("ray.serve")


def source_digest(config: ServeConfig) -> str:
    """Identify registry and model address without revealing them: the address may hold a password."""
    return hashlib.sha256(f"{tracking_uri(config.tracking_uri)} {config.model_uri}".encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Found:
    """The version that the model address means."""

    target: Target
    tagged: bool
    """Whether it has STATE_TAG."""
    refusal: Refusal | None
    """Its refusal, according to its tags."""


def look_up(config: ServeConfig) -> Found:
    """The version that the model address means now.

    Raises:
        ValueError: there is none, or it was registered without digests.
    """
    found = resolve(config.model_uri, uri=config.tracking_uri)
    tags, refusal = found.tags, None
    if tags.get(STATE_TAG) == REFUSED:
        refusal = Refusal(
            version=found.version,
            gate=tags.get(GATE_TAG, "unknown"),
            reason=tags.get(REASON_TAG, "no reason is recorded"),
            at=_timestamp(tags.get(TIME_TAG, "")),
        )
    return Found(target=_target(found), tagged=STATE_TAG in tags, refusal=refusal)


def last_served(name: str, config: ServeConfig) -> Target | None:
    """The version that took over last, according to the tags, and was not refused since; None if there is none."""
    for _, version in reversed(versions_by_tag(name, SERVED_TAG, uri=config.tracking_uri)):
        try:
            found = resolve(f"models:/{name}/{version}", uri=config.tracking_uri)
        except ValueError as error:
            logger.warning("version %d served before and cannot be used: %s", version, error)
            continue
        if found.tags.get(STATE_TAG) != REFUSED:
            return _target(found)
    return None


def _timestamp(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def verify(target: Target, config: ServeConfig) -> Release | Failure:
    """Download a version and check digests and signature; nothing of it is loaded or run."""
    try:
        folder = with_retries(
            lambda: fetch_version(_registered(target), uri=config.tracking_uri), what=target.identity
        )
        card = read_card(folder)
        check_files(folder, sha256=target.sha256)
    except ValueError as error:
        return Failure(gate="digest", reason=str(error))
    try:
        model = config_from_dict(card["config"])
        check_signature(folder, model)
        if model.num_frames > config.max_batch_frames:
            raise ValueError(
                f"max_batch_frames: {config.max_batch_frames} is below the {model.num_frames} frames that "
                f"version {target.version} takes at once"
            )
    except ValueError as error:
        return Failure(gate="signature", reason=str(error))
    return Release(
        **target.model_dump(),
        data_digest=str(card["lineage"].get("data_digest", "")),
        architecture=model.architecture,
        backbone=model.backbone,
        image_size=model.image_size,
        num_frames=model.num_frames,
        classes=card["classes"],
        metrics=card["metrics"],
    )


def write_tags(write: TagWrite, config: ServeConfig) -> bool:
    """Write tags of one version; False if MLflow no longer has the version.

    Raises whatever else MLflow raises; the controller tries again.
    """
    try:
        set_tags(write.name, write.version, write.tags, uri=config.tracking_uri)
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return False
        raise
    return True


def _registered(target: Target) -> RegisteredVersion:
    return RegisteredVersion(**target.model_dump(), tags={})


def _target(found: RegisteredVersion) -> Target:
    return Target.model_validate(found, from_attributes=True)
