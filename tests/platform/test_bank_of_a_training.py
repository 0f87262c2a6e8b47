"""The bank of a training: made once of its training split, or named and then checked."""

import dataclasses
from pathlib import Path

import pytest
import torch
from sdavs_platform.config.tree import DataConfig, RunConfig
from sdavs_platform.training import audio_bank
from sdavs_platform.training.audio_bank import banks_folder, resolve_bank

from sdavs_model.architectures.ddeseg.config import Ablation, DDESegConfig
from sdavs_model.architectures.sdavs.config import SDAVSConfig
from sdavs_model.weights.audio_bank import AudioBank, read_bank, write_bank
from sdavs_model.weights.store import describe_weights

MODEL = DDESegConfig(
    backbone="test_efficientnet",
    audio_encoder="vggish",
    vggish_width=0.125,
    image_size=32,
    freeze_audio_encoder=True,
    num_nearest=2,
    num_prototypes=2,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, data: Path):
    """A state folder of its own, and an encoder that is the same every time."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SDAVS_HOME", str(tmp_path_factory.mktemp("home")))
    made = audio_bank.build_audio_encoder

    def seeded(config, weights):
        torch.manual_seed(0)
        return made(config, weights)

    patch.setattr(audio_bank, "build_audio_encoder", seeded)
    patch.setattr("sdavs_model.data.tools.audio_bank.build_audio_encoder", seeded)
    yield data
    patch.undo()


def run_config(root: Path, **changes) -> RunConfig:
    return RunConfig(data=DataConfig(root=str(root)), model=dataclasses.replace(MODEL, **changes))


def resolved(root: Path, **changes) -> DDESegConfig:
    return resolve_bank(run_config(root, **changes))


def test_a_training_makes_its_bank_once_and_says_what_it_is(home):
    first = resolved(home)
    assert Path(first.bank).parent == banks_folder()
    written = Path(first.bank).stat().st_mtime_ns
    assert resolved(home) == first == resolved(home, bank=first.bank, bank_classes=first.bank_classes)
    assert Path(first.bank).stat().st_mtime_ns == written
    bank = read_bank(first.bank)
    assert first.bank_classes == bank.record.classes
    assert describe_weights(first)["bank"]["sha256"] == bank.digest
    # A trial of a sweep changes n of the config that the sweep has resolved.
    other = resolved(home, bank=first.bank, bank_classes=first.bank_classes, num_prototypes=1)
    assert read_bank(other.bank).prototypes.shape[1] == 1


def test_other_models_have_none(home):
    plain = RunConfig(data=DataConfig(root=str(home)), model=SDAVSConfig())
    assert resolve_bank(plain) is plain.model
    without = resolved(home, ablation=Ablation(derivation=False))
    assert without.bank is None


def test_a_named_bank_of_other_data_encoder_or_classes_is_refused_with_the_key(home, tmp_path):
    bank = read_bank(resolved(home).bank)
    path = str(tmp_path / "bank.safetensors")

    def save(**changes) -> None:
        record = dataclasses.replace(bank.record, **changes)
        write_bank(Path(path), AudioBank(prototypes=bank.prototypes, record=record))

    save()
    assert resolved(home, bank=path).bank == path
    save(data_digest="d" * 64)
    with pytest.raises(
        ValueError, match=r"model.bank: was made from data with digest d+, not .*model.bank_data_digest=d"
    ):
        resolved(home, bank=path)
    assert resolved(home, bank=path, bank_data_digest="d" * 64).bank == path
    save(encoder_digest="e" * 64)
    with pytest.raises(
        ValueError, match=r"model.bank: was made with other weights of vggish than model.audio_weights"
    ):
        resolved(home, bank=path)
    save(audio_encoder="yamnet")
    with pytest.raises(ValueError, match=r"model.bank: was made with audio_encoder='yamnet', not 'vggish'"):
        resolved(home, bank=path)
    save()
    with pytest.raises(ValueError, match=r"model.num_prototypes: 3, but the bank has 2 of each class"):
        resolved(home, bank=path, num_prototypes=3)
    with pytest.raises(ValueError, match=r"model.bank_classes: .*; the bank has "):
        resolved(home, bank=path, bank_classes=("a", "b"))


def test_an_audio_encoder_that_is_trained_is_refused(home):
    with pytest.raises(ValueError, match=r"model.freeze_audio_encoder: .* must not be trained"):
        resolved(home, freeze_audio_encoder=False)
