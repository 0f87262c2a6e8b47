"""The model registry: one pickle-free artifact per version, found by number or alias, verified when it is loaded.

A version's artifact is the folder of `sdavs_model.save_artifact` plus an `MLmodel` file, from which MLflow's UI shows
the signature. Two tags protect it: `sha256` (of the weights) and `manifest_sha256` (of sdavs.json, which holds the
config, the preprocessing and the digest of the weights).
"""

import logging
import math
import os
import platform
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts, list_artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from sdavs_model import artifact_files
from sdavs_model.artifact_files import CARD_FILE, WEIGHTS_FILE
from sdavs_model.config import ModelConfig
from sdavs_model.files import sha256_of
from sdavs_platform.config.paths import state_folder
from sdavs_platform.tracking.client import (
    mlflow_client,
    quoted,
    require_mlflow,
    tracking_uri,
    without_credentials,
)

logger = logging.getLogger(__name__)

DIGEST_TAGS = ("sha256", "manifest_sha256")

KEPT_VERSIONS = 5
"""Versions of one model that stay downloaded, those used last. Our choice: an endpoint holds two and tries a third."""


class DownloadError(ValueError):
    """The files of a version cannot be downloaded now, which may pass."""


@dataclass(frozen=True, kw_only=True)
class RegisteredVersion:
    """One version as the registry records it."""

    name: str
    version: int
    sha256: str
    manifest_sha256: str
    run_id: str
    tags: dict[str, str]


def register_artifact(
    folder: str | Path, *, name: str, config: ModelConfig, run_id: str, tags: dict[str, str], uri: str
) -> int:
    """Upload an artifact folder as a logged model of run `run_id` and register it; returns the version.

    `tags` are added to the version's own: `architecture`, `sha256` and `manifest_sha256`.
    """
    folder = Path(folder)
    client = mlflow_client(uri)
    experiment = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(
        experiment, name=name, source_run_id=run_id, model_type=config.architecture
    )
    flavors = {
        "sdavs": {
            "architecture": config.architecture,
            "weights": WEIGHTS_FILE,
            "manifest": CARD_FILE,
            "loader": "sdavs_model.load_artifact",
        },
        "python_function": {
            "loader_module": "sdavs_model.pyfunc",
            "data": ".",
            "python_version": platform.python_version(),
        },
    }
    Model(run_id=run_id, flavors=flavors, signature=signature(config), model_id=model.model_id).save(
        str(folder / "MLmodel")
    )
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    _create_registered_model(client, name)
    own = {
        "architecture": config.architecture,
        "sha256": file_sha256(folder / WEIGHTS_FILE),
        "manifest_sha256": file_sha256(folder / CARD_FILE),
    }
    # Not models:/<id>: MLflow's sqlite registry would look it up at the global address instead of `uri`.
    created = client.create_model_version(
        name, model.artifact_location, run_id=run_id, tags=tags | own, model_id=model.model_id
    )
    return int(created.version)


def signature(config: ModelConfig) -> ModelSignature:
    """`artifact_files.signature` as MLflow's type."""
    shapes = artifact_files.signature(config)
    inputs, outputs = (
        Schema(
            [TensorSpec(np.dtype(t["dtype"]), tuple(t["shape"]), name) for name, t in shapes[side].items()]
        )
        for side in ("inputs", "outputs")
    )
    return ModelSignature(inputs=inputs, outputs=outputs)


def resolve(model_uri: str, *, uri: str | None = None) -> RegisteredVersion:
    """Look up `models:/NAME@ALIAS`, `models:/NAME/3` or `models:/NAME/latest`.

    Raises:
        ValueError: another form of address, or no such version.
    """
    match = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+|latest))", model_uri)
    if not match:
        raise ValueError(
            f"{model_uri}: not a model URI; allowed: models:/NAME@ALIAS, models:/NAME/NUMBER, models:/NAME/latest"
        )
    name, alias, number = match.groups()
    address = tracking_uri(uri)
    client = mlflow_client(address)
    try:
        if alias:
            found = client.get_model_version_by_alias(name, alias)
        else:
            found = client.get_model_version(name, _latest(client, name) if number == "latest" else number)
    except MlflowException as error:
        raise ValueError(
            f"{model_uri}: not in the registry at {without_credentials(address)}: {error.message}"
        ) from None
    for tag in DIGEST_TAGS:
        if tag not in found.tags:
            raise ValueError(
                f"{model_uri}: version {found.version} was not registered by this platform: it has no {tag} tag "
                f"and cannot be verified"
            )
    return _recorded(found)


def fetch(model_uri: str, *, uri: str | None = None, cache: Path | None = None) -> Path:
    """The artifact folder of a registered model on this machine: downloaded once, verified every time.

    Raises:
        ValueError: not registered, or the files differ from the registered digests.
    """
    return fetch_version(resolve(model_uri, uri=uri), uri=uri, cache=cache)


def fetch_version(found: RegisteredVersion, *, uri: str | None = None, cache: Path | None = None) -> Path:
    """`fetch` for a resolved version; MLflow is only contacted if the version is not cached on this machine.

    A cached file that has changed is downloaded again. Of one model, `KEPT_VERSIONS` versions are kept.

    Raises:
        DownloadError: the files cannot be downloaded.
        ValueError: they differ from the registered digests.
    """
    folder = (
        (cache or state_folder() / "models") / found.name / f"{found.version}-{found.manifest_sha256[:12]}"
    )
    if folder.is_dir():
        try:
            _verify(folder, found)
        except ValueError as error:
            logger.warning("%s; it is downloaded again", error)
            shutil.rmtree(folder, ignore_errors=True)
        else:
            os.utime(folder)  # used last, see `_prune`
            return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    client = mlflow_client(tracking_uri(uri))
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as scratch:
        try:
            downloaded = _download(client, found, Path(scratch))
        # MLflow raises errors of its own, of HTTP and of every kind of artifact storage.
        except Exception as error:
            raise DownloadError(
                f"{found.name} version {found.version}: its files cannot be downloaded: {_first_line(error)}"
            ) from error
        _verify(downloaded, found)
        try:
            os.replace(downloaded, folder)
        except OSError:
            # Another process was faster; its copy is fine if it verifies.
            _verify(folder, found)
    os.utime(folder)
    _prune(folder.parent)
    return folder


def _prune(folder: Path) -> None:
    """Remove the versions that were used longest ago."""
    versions = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    for path in sorted(versions, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT_VERSIONS:]:
        logger.info("removing %s from the downloaded versions", path.name)
        shutil.rmtree(path, ignore_errors=True)


def check_signature(folder: Path, config: ModelConfig) -> None:
    """Check that the signature that MLflow shows is that of the model in the folder.

    Raises:
        ValueError: they differ; shows both.
    """
    try:
        shown = Model.load(str(folder / "MLmodel")).signature
    except MlflowException as error:
        raise ValueError(f"{folder / 'MLmodel'}: {error.message}") from None
    if shown != (expected := signature(config)):
        raise ValueError(
            f"{folder / 'MLmodel'}: the signature is {shown}, but a model of this config has {expected}"
        )


def set_tags(name: str, version: int, tags: dict[str, str], *, uri: str | None = None) -> None:
    """Set tags of a version; its other tags are kept."""
    client = mlflow_client(tracking_uri(uri))
    for key, value in tags.items():
        client.set_model_version_tag(name, str(version), key, value)


def find_version(name: str, tags: dict[str, str], *, run_id: str, uri: str) -> int | None:
    """The newest version that this run has registered with these tags; None if there is none."""
    found = mlflow_client(uri).search_model_versions(f"name = {quoted(name)}")
    own = [v for v in found if v.run_id == run_id and tags.items() <= v.tags.items()]
    return max((int(version.version) for version in own), default=None)


def versions_by_tag(name: str, key: str, *, uri: str | None = None) -> list[tuple[str, int]]:
    """(value, version) of the versions that have a tag, sorted by value."""
    try:
        versions = _versions(mlflow_client(tracking_uri(uri)), name)
    except ValueError:
        return []
    return sorted((version.tags[key], int(version.version)) for version in versions if key in version.tags)


def promote(name: str, version: str | int, alias: str = "champion", *, uri: str | None = None) -> int:
    """Point `alias` at a version: a number, "latest", or "best" (highest val_miou tag); returns the number.

    "latest" and "best" skip versions that this platform did not register and those whose files are gone.

    Raises:
        ValueError: no such model or version, its files are gone, or MLflow refuses the alias.
    """
    address = tracking_uri(uri)
    require_mlflow(address)
    client = mlflow_client(address)
    if version in ("latest", "best"):
        found = _choose(client, name, best=version == "best")
    else:
        found = resolve(f"models:/{name}/{version}", uri=uri)
        _require_files(client, found)
    try:
        client.set_registered_model_alias(name, alias, str(found.version))
    except MlflowException as error:
        raise ValueError(f"--alias: MLflow refuses {alias!r}: {_first_line(error)}") from None
    return found.version


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes.

    Raises:
        ValueError: there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"{path}: missing from the model artifact")
    return sha256_of(path)


def require_registry_access(name: str, *, uri: str) -> None:
    """Check that versions of a model can be registered; creates the registered model on first use.

    Raises:
        ValueError: the registry refuses.
    """
    client = mlflow_client(uri)
    try:
        _create_registered_model(client, name)
        # Changes nothing, but fails without write access.
        client.update_registered_model(name, description=client.get_registered_model(name).description)
    except MlflowException as error:
        raise ValueError(
            f"tracking.registered_model: the registry at {without_credentials(uri)} refuses {name!r}: {error.message}"
        ) from None


def _create_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name, description="Audio-visual segmentation")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _latest(client: MlflowClient, name: str) -> str:
    return str(max(version.version for version in _own_versions(client, name)))


def _choose(client: MlflowClient, name: str, *, best: bool) -> RegisteredVersion:
    """The newest version whose files are there, or the best one of these."""
    versions = _own_versions(client, name)
    for found in sorted(versions, key=lambda v: (_val_miou(v) if best else 0.0, v.version), reverse=True):
        try:
            _require_files(client, found)
            return found
        except ValueError as error:
            logger.warning(f"skipped: {error}")
    raise ValueError(f"{name}: the files of all its versions are gone")


def _val_miou(found: RegisteredVersion) -> float:
    try:
        value = float(found.tags.get("val_miou", -1))
    except ValueError:  # tags can be edited by hand
        return -1.0
    return value if math.isfinite(value) else -1.0


def _require_files(client: MlflowClient, found: RegisteredVersion) -> None:
    """Check that the artifact of a version exists.

    Raises:
        ValueError: it does not, or its storage cannot be read.
    """
    source = client.get_model_version_download_uri(found.name, str(found.version))
    try:
        listed = list_artifacts(source, tracking_uri=client.tracking_uri)
    # MLflow raises errors of its own, of HTTP and of every kind of artifact storage.
    except Exception as error:
        raise ValueError(f"{found.name} version {found.version}: {source}: {_first_line(error)}") from error
    if not {WEIGHTS_FILE, CARD_FILE} <= {Path(file.path).name for file in listed}:
        raise ValueError(f"{found.name} version {found.version}: its files are gone from {source}")


def _own_versions(client: MlflowClient, name: str) -> list[RegisteredVersion]:
    """The versions that this platform registered.

    Raises:
        ValueError: there is none.
    """
    own = [_recorded(v) for v in _versions(client, name) if set(DIGEST_TAGS) <= v.tags.keys()]
    if not own:
        raise ValueError(f"{name}: no version of it was registered by this platform")
    return own


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    try:
        versions = list(client.search_model_versions(f"name = {quoted(name)}"))
    except MlflowException as error:
        raise ValueError(f"{name}: {_first_line(error)}") from None
    if not versions:
        raise ValueError(
            f"{name}: no registered model of that name at {without_credentials(client.tracking_uri)}"
        )
    return versions


def _recorded(version: ModelVersion) -> RegisteredVersion:
    return RegisteredVersion(
        name=version.name,
        version=int(version.version),
        sha256=version.tags["sha256"],
        manifest_sha256=version.tags["manifest_sha256"],
        run_id=version.run_id or "",
        tags=dict(version.tags),
    )


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _download(client: MlflowClient, found: RegisteredVersion, folder: Path) -> Path:
    """Download the artifact of a version into `folder`; returns its own folder there."""
    source = client.get_model_version_download_uri(found.name, str(found.version))
    return Path(download_artifacts(source, dst_path=str(folder), tracking_uri=client.tracking_uri))


def _verify(folder: Path, found: RegisteredVersion) -> None:
    for file, expected in ((WEIGHTS_FILE, found.sha256), (CARD_FILE, found.manifest_sha256)):
        if file_sha256(folder / file) != expected:
            raise ValueError(
                f"{folder / file}: sha256 differs from the one registered for {found.name} version {found.version}"
            )
