"""The registry returns what was registered, or nothing."""

import pytest
from sdavs_platform.tracking import registry
from sdavs_platform.tracking.runs import TrainingRun

from sdavs_model import SDAVSConfig, build_model, load_artifact, save_artifact

TINY = SDAVSConfig(backbone="pvt_v2_b0", image_size=32, width=16, num_heads=2, vggish_width=0.125)


@pytest.fixture(scope="module")
def registered(tmp_path_factory, make_config):
    """An untrained model registered twice; the address of the registry."""
    config = make_config("untrained")
    uri = f"sqlite:///{tmp_path_factory.mktemp('registry') / 'mlflow.db'}"
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


def test_a_changed_byte_in_the_downloaded_artifact_is_refused_with_the_file_name(registered, tmp_path):
    folder = registry.fetch("models:/m/1", uri=registered, cache=tmp_path)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors: sha256 differs"):
        registry.fetch("models:/m/1", uri=registered, cache=tmp_path)


@pytest.mark.parametrize("address", ["models:/m@nobody", "models:/m/99", "models:/other/1", "m"])
def test_an_address_that_leads_nowhere_is_named_in_the_message(registered, address):
    with pytest.raises(ValueError, match=address):
        registry.resolve(address, uri=registered)
