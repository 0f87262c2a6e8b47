"""The registry returns what was registered, or nothing."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from databases import mlflow_database
from sdavs_platform.tracking import registry
from sdavs_platform.tracking.client import mlflow_client
from sdavs_platform.tracking.runs import TrainingRun

from sdavs_model import SDAVSConfig, build_model, load_artifact, save_artifact

pytestmark = pytest.mark.slow

TINY = SDAVSConfig(backbone="pvt_v2_b0", image_size=32, width=16, num_heads=2, vggish_width=0.125)


@pytest.fixture(scope="module")
def registered(tmp_path_factory, make_config):
    """An untrained model registered twice; the address of the registry."""
    config = make_config("untrained")
    uri = mlflow_database(tmp_path_factory.mktemp("registry"))
    folder = tmp_path_factory.mktemp("artifact")
    run = TrainingRun.open(config, uri=uri, storage="nowhere", has_checkpoints=False)
    save_artifact(
        folder, model=build_model(TINY), classes=["background", "sounding object"], metrics={}, lineage={}
    )
    for miou in ("0.7", "0.2"):
        tags = {"val_miou": miou}
        registry.register_artifact(folder, name="m", config=TINY, run_id=run.run_id, tags=tags, uri=uri)
    return uri


def test_an_alias_leads_to_a_loadable_artifact_that_shows_its_signature(registered, tmp_path):
    assert registry.promote("m", "best", uri=registered) == 1
    assert registry.promote("m", "latest", "newest", uri=registered) == 2
    folder = registry.fetch("models:/m@champion", uri=registered, cache=tmp_path)
    assert load_artifact(folder, sha256=registry.resolve("models:/m/1", uri=registered).sha256).config == TINY
    assert "frames" in (folder / "MLmodel").read_text()


def test_mlflow_loads_a_registered_version_and_predicts_a_clip_with_it(registered, tmp_path):
    import mlflow

    folder = registry.fetch("models:/m/1", uri=registered, cache=tmp_path)
    clip = {
        "frames": np.random.default_rng(0).standard_normal((1, 2, 3, 32, 32), np.float32),
        "log_mel": np.random.default_rng(1).standard_normal((1, 2, 1, 96, 64), np.float32),
    }
    found = mlflow.pyfunc.load_model(str(folder)).predict(clip)["logits"]
    with torch.inference_mode():
        model = load_artifact(folder).model
        expected = model(torch.from_numpy(clip["frames"]), torch.from_numpy(clip["log_mel"]))
    assert found.dtype == np.float32
    # Arrays of another alignment in memory are summed in another order.
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_a_version_is_found_by_what_it_was_made_of_so_that_finishing_again_repeats_nothing(registered):
    run_id = registry.resolve("models:/m/1", uri=registered).run_id
    assert registry.find_version("m", {"val_miou": "0.7"}, run_id=run_id, uri=registered) == 1
    assert registry.find_version("m", {"val_miou": "0.3"}, run_id=run_id, uri=registered) is None
    assert registry.find_version("m", {"val_miou": "0.7"}, run_id="another", uri=registered) is None


def change_last_byte(path: Path) -> bytes:
    """Spoil a file; returns what it was."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return content


def test_a_changed_byte_in_the_registry_is_refused_with_the_file_name(registered, tmp_path):
    source = mlflow_client(registered).get_model_version_download_uri("m", "1").removeprefix("file://")
    weights = Path(source) / "model.safetensors"
    content = change_last_byte(weights)
    with pytest.raises(ValueError, match=r"model\.safetensors: sha256 differs"):
        registry.fetch("models:/m/1", uri=registered, cache=tmp_path)
    weights.write_bytes(content)


def test_a_changed_byte_in_a_downloaded_version_has_it_downloaded_again(registered, tmp_path, caplog):
    folder = registry.fetch("models:/m/1", uri=registered, cache=tmp_path)
    content = change_last_byte(folder / "model.safetensors")
    assert registry.fetch("models:/m/1", uri=registered, cache=tmp_path) == folder
    assert (folder / "model.safetensors").read_bytes() == content
    assert "it is downloaded again" in caplog.text


def test_of_the_downloaded_versions_those_used_last_are_kept(registered, tmp_path):
    (tmp_path / "m").mkdir()
    for number in range(registry.KEPT_VERSIONS):
        (tmp_path / "m" / f"{number}-old").mkdir()
        os.utime(tmp_path / "m" / f"{number}-old", (number, number))
    first = registry.fetch("models:/m/1", uri=registered, cache=tmp_path)
    os.utime(first, (1, 1))
    assert registry.fetch("models:/m/1", uri=registered, cache=tmp_path) == first, "now it was used last"
    second = registry.fetch("models:/m/2", uri=registered, cache=tmp_path)
    kept = {path.name for path in (tmp_path / "m").iterdir()}
    assert kept == {first.name, second.name, "2-old", "3-old", "4-old"}


@pytest.mark.parametrize("address", ["models:/m@nobody", "models:/m/99", "models:/other/1", "m"])
def test_an_address_that_leads_nowhere_is_named_in_the_message(registered, address):
    with pytest.raises(ValueError, match=address):
        registry.resolve(address, uri=registered)


@pytest.fixture(scope="module")
def with_strangers(tmp_path_factory, make_config):
    """A registry of four versions: two of this platform, one whose files are gone, and one of somebody else."""
    tmp_path = tmp_path_factory.mktemp("strangers")
    uri = mlflow_database(tmp_path)
    run = TrainingRun.open(make_config("any"), uri=uri, storage="nowhere", has_checkpoints=False)
    folder = tmp_path / "artifact"
    save_artifact(folder, model=build_model(TINY), classes=["background", "object"], metrics={}, lineage={})
    for miou in ("0.7", "0.2", "0.9"):
        tags = {"val_miou": miou}
        registry.register_artifact(folder, name="m", config=TINY, run_id=run.run_id, tags=tags, uri=uri)
    client = mlflow_client(uri)
    shutil.rmtree(Path(client.get_model_version("m", "3").source.removeprefix("file://")))
    client.create_model_version("m", "file:///none", tags={"val_miou": "1.0"})
    # Not a number, as after a training that diverged; compared with others it is neither above nor below.
    client.set_model_version_tag("m", "2", "val_miou", "nan")
    return uri


def test_best_and_latest_skip_versions_of_others_and_those_without_files(with_strangers, caplog):
    assert registry.promote("m", "best", uri=with_strangers) == 1
    assert registry.promote("m", "latest", uri=with_strangers) == 2
    assert "skipped: m version 3: its files are gone from" in caplog.text
    assert registry.resolve("models:/m/latest", uri=with_strangers).version == 3


@pytest.mark.parametrize(
    ("name", "version", "alias", "message"),
    [
        ("m", "4", "champion", "version 4 was not registered by this platform"),
        ("m", "3", "champion", "its files are gone from"),
        ("m", "v3", "champion", "not a model URI"),
        ("m", "1", "latest", "--alias: MLflow refuses 'latest'"),
        ("m", "1", "v3", "--alias: MLflow refuses 'v3'"),
        ("m", "1", "", "--alias: MLflow refuses ''"),
        ("o'brien", "latest", "champion", "o'brien: no registered model of that name"),
        ("a/b", "best", "champion", "a/b: "),
    ],
)
def test_a_version_alias_or_name_that_cannot_be_promoted_is_refused_in_one_line(
    with_strangers, name, version, alias, message
):
    with pytest.raises(ValueError, match=message) as refusal:
        registry.promote(name, version, alias, uri=with_strangers)
    assert "\n" not in str(refusal.value)


def test_missing_files_are_refused_in_one_line_when_they_are_fetched(with_strangers, tmp_path):
    with pytest.raises(ValueError, match=r"m version 3: its files cannot be downloaded: [^\n]*$"):
        registry.fetch("models:/m/3", uri=with_strangers, cache=tmp_path / "cache")
