"""`make try`: serve the included trained model with the endpoint and its page, without data or training."""

import logging
import tempfile
from pathlib import Path

from sdavs_model.artifact import save_artifact
from sdavs_model.data.core.clip import Clip
from sdavs_model.data.realav.asset_library import AssetLibrary
from sdavs_model.data.realav.compose import compose_clip
from sdavs_model.files import sha256_of
from sdavs_model.trained_parts import SHIPPED, WEIGHT_KEYS, load_parts, read_parts
from sdavs_platform.config.paths import state_folder, weights_folder
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.console import Steps
from sdavs_platform.local.commands import Commands
from sdavs_platform.local.stack import Ports
from sdavs_platform.local.stages import Stages, run_stages
from sdavs_platform.tracking.client import experiment_id, mlflow_client
from sdavs_platform.tracking.registry import promote, register_artifact, versions_by_tag

logger = logging.getLogger(__name__)

NUM_STEPS = 5
MODEL = "sdavs-shipped"
"""Name in the registry; a separate one, so that the champion of the user's own trainings is not changed."""

DIGEST_TAG = "parts_sha256"
"""Tag of a version: the digest of the file that it was made from, so that the file is registered once."""

CLIP_SIZE = 256


def run(*, ports: Ports) -> int:
    """Serve the shipped model; returns the exit status."""
    home, steps = state_folder(), Steps(num_steps=NUM_STEPS)
    stages = Stages(home=home, out=home / "try", steps=steps, ports=ports)
    return run_stages(lambda: _run(stages), command="make try", steps=steps)


def _run(stages: Stages) -> None:
    stages.out.mkdir(parents=True, exist_ok=True)
    card, _ = read_parts(SHIPPED)
    services = stages.start()
    commands = Commands(stack=services, home=stages.home)
    stages.fetch_weights(commands, [getattr(card.config, key) for key in WEIGHT_KEYS])
    with stages.steps.step("Register the shipped model") as step:
        version = register_parts(
            SHIPPED, name=MODEL, uri=services.mlflow.uri, weights_folder=weights_folder()
        )
        promote(MODEL, version, uri=services.mlflow.uri)
        step.result = f"models:/{MODEL}@champion is version {version}"
    address = stages.deploy(commands, services, model=f"models:/{MODEL}@champion")
    answer = stages.request(commands, address, bundled_clip())
    show = stages.steps.console.print
    show()
    addresses = {
        "Page": f"{address}/",
        "Endpoint": f"{address}/docs",
        "Model card": SHIPPED.with_name("README.md"),
        "Picture": stages.out / "result.png",
        "Masks, overlays": answer,
        "Stop everything": "make stop",
    }
    for name, value in addresses.items():
        show(f"  {name:<16} {value}", soft_wrap=True, markup=False)


def register_parts(path: Path, *, name: str, uri: str, weights_folder: Path) -> int:
    """Register a model of `sdavs_model.trained_parts`, once; returns its version.

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


def bundled_clip() -> Clip:
    """A composed clip of the training's objects and recordings over backgrounds that it never saw ("new scenes")."""
    pool = AssetLibrary().pool("train", backgrounds="test")
    clip, _ = compose_clip(name="try", seed=(7, 0, 0), pool=pool, size=CLIP_SIZE, num_frames=5)
    return clip
