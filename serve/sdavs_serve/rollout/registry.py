"""The controller's side of the MLflow registry: look the alias up, check an artifact, write tags. Blocking."""

import hashlib

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

from sdavs_model.artifact_files import check_files, read_card
from sdavs_model.config import SDAVSConfig
from sdavs_serve.rollout.rules import SERVED_TAG, STATE_TAG
from sdavs_serve.rollout.state import Failure, Release, TagWrite, Target


def source_digest(config: ServeConfig) -> str:
    """Identifies registry and model address without revealing them: the address may hold a password."""
    return hashlib.sha256(f"{tracking_uri(config.tracking_uri)} {config.model_uri}".encode()).hexdigest()[:16]


def look_up(config: ServeConfig) -> tuple[Target, bool]:
    """The version that the model address means now, and whether it has STATE_TAG.

    Raises:
        ValueError: there is none, or it was registered without digests.
    """
    found = resolve(config.model_uri, uri=config.tracking_uri)
    return _target(found), STATE_TAG in found.tags


def last_served(name: str, config: ServeConfig) -> Target | None:
    """The version that took over last, according to the tags."""
    served = versions_by_tag(name, SERVED_TAG, uri=config.tracking_uri)
    if not served:
        return None
    return _target(resolve(f"models:/{name}/{served[-1][1]}", uri=config.tracking_uri))


def verify(target: Target, config: ServeConfig) -> Release | Failure:
    """Download a version and check digests and signature; nothing of it is loaded or run."""
    try:
        folder = fetch_version(_registered(target), uri=config.tracking_uri)
        card = read_card(folder)
        check_files(folder, sha256=target.sha256)
    except ValueError as error:
        return Failure(gate="digest", reason=str(error))
    try:
        model = SDAVSConfig.from_dict(card["config"])
        check_signature(folder, model)
        if model.num_frames > config.max_batch_frames:
            raise ValueError(
                f"max_batch_frames: {config.max_batch_frames} is below the {model.num_frames} frames that "
                f"version {target.version} sees at once"
            )
    except ValueError as error:
        return Failure(gate="signature", reason=str(error))
    return Release(
        **target.model_dump(),
        data_digest=str(card["lineage"].get("data_digest", "")),
        backbone=model.backbone,
        image_size=model.image_size,
        num_frames=model.num_frames,
        classes=card["classes"],
        metrics=card["metrics"],
    )


def write_tags(write: TagWrite, config: ServeConfig) -> None:
    """Write tags of one version. Raises whatever MLflow raises; the controller tries again."""
    set_tags(write.name, write.version, write.tags, uri=config.tracking_uri)


def _registered(target: Target) -> RegisteredVersion:
    return RegisteredVersion(**target.model_dump(), tags={})


def _target(found: RegisteredVersion) -> Target:
    return Target(
        name=found.name,
        version=found.version,
        run_id=found.run_id,
        sha256=found.sha256,
        manifest_sha256=found.manifest_sha256,
    )
