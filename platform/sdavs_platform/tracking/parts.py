"""A file of a model's parts, joined with its encoders and registered like the result of a training."""

import tempfile
from pathlib import Path

from sdavs_model.artifact import save_artifact
from sdavs_model.files import sha256_of
from sdavs_model.parts import load_parts
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.tracking.client import experiment_id, mlflow_client
from sdavs_platform.tracking.registry import register_artifact, versions_by_tag

DIGEST_TAG = "parts_sha256"


def register_parts(path: Path, *, name: str, uri: str, weights_folder: Path) -> int:
    """Register a model of `sdavs_model.parts`, once; returns its version.

    Args:
        path: the file of parts.
        name: of the registered model.
        uri: MLflow.
        weights_folder: holds the encoders.

    Raises:
        ValueError: as `load_parts`.
    """
    digest = sha256_of(path)
    if (known := dict(versions_by_tag(name, DIGEST_TAG, uri=uri))).get(digest):
        return known[digest]
    model, card = load_parts(path, weights_folder=weights_folder)
    client = mlflow_client(uri)
    run = client.create_run(experiment_id(client, RunConfig().tracking.experiment), run_name=name)
    with tempfile.TemporaryDirectory(prefix="sdavs-parts-") as folder:
        save_artifact(
            folder,
            model=model,
            classes=card.classes,
            metrics=card.metrics,
            lineage=card.lineage | {DIGEST_TAG: digest},
        )
        version = register_artifact(
            folder, name=name, config=model.config, run_id=run.info.run_id, tags={DIGEST_TAG: digest}, uri=uri
        )
    client.set_terminated(run.info.run_id)
    return version
