"""DDESeg whole: its config, its bank, its budgets, and that it trains, is saved and comes back the same."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdavs_model import build_model
from sdavs_model.architectures import config_from_dict
from sdavs_model.architectures.ddeseg import budgets, recipes
from sdavs_model.architectures.ddeseg.config import Ablation, DDESegConfig
from sdavs_model.architectures.ddeseg.model import DDESeg
from sdavs_model.artifact import load_artifact, save_artifact
from sdavs_model.benchmark import cost
from sdavs_model.files import sha256_of
from sdavs_model.training_step import training_loss
from sdavs_model.weights.audio_bank import AudioBank, BankRecord, read_bank, write_bank

SMALL = {
    "backbone": "test_efficientnet",
    "audio_encoder": "vggish",
    "vggish_width": 0.125,
    "image_size": 64,
    "num_frames": 2,
    "num_nearest": 3,
    "num_prototypes": 2,
    "token_width": 16,
    "head_width": 16,
    "freeze_backbone": True,
    "freeze_audio_encoder": True,
}
INSIDE = {"backbone": "pvt_v2_b0", "freeze_backbone": False, "placement": "before_blocks", "first_stride": 2}
CLASSES = ("cat", "dog", "horse", "violin")


@pytest.fixture(scope="module")
def bank_file(tmp_path_factory):
    return save_bank(tmp_path_factory.mktemp("bank") / "bank.safetensors")


def save_bank(path, *, classes=CLASSES, n=2, embedding=128, audio_encoder="vggish") -> str:
    record = BankRecord(
        classes=classes,
        num_seconds=(9,) * len(classes),
        audio_encoder=audio_encoder,
        encoder_digest="e" * 64,
        data_digest="d" * 64,
        split="train",
        seed=0,
    )
    prototypes = torch.randn(len(classes), n, embedding, generator=torch.Generator().manual_seed(0))
    write_bank(path, AudioBank(prototypes=prototypes, record=record))
    return str(path)


def config(bank_file: str | None, **changes) -> DDESegConfig:
    return DDESegConfig(**SMALL | {"bank": bank_file, "bank_classes": CLASSES} | changes)


def build(bank_file: str | None, **changes) -> DDESeg:
    torch.manual_seed(0)
    return build_model(config(bank_file, **changes))


def batch(num_classes: int = 1) -> dict:
    generator = torch.Generator().manual_seed(0)
    return {
        "frames": torch.randn(2, 2, 3, 64, 64, generator=generator),
        "log_mel": torch.randn(2, 2, 1, 96, 64, generator=generator),
        "masks": torch.randint(0, max(num_classes, 2), (2, 2, 64, 64), generator=generator),
        "name": ["a", "b"],
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"variant": "code"},
        {"num_classes": 3},
        {"token_width": None},
        {"ablation": Ablation(discriminative=False)},
        {"ablation": Ablation(elimination=False)},
        {"ablation": Ablation(elimination=False), "variant": "code"},
        {"ablation": Ablation(derivation=False), "token_width": None, "bank": None, "bank_classes": ()},
        INSIDE,
        INSIDE | {"variant": "code", "first_stride": 4},
    ],
    ids=str,
)
def test_every_variant_trains_all_its_parameters(bank_file, changes):
    model = build(bank_file, **changes).train()
    training_loss(model, batch(model.config.num_classes))["loss"].backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    starved = [n for n, p in trained.items() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert starved == []
    assert any(name.startswith("visual_encoder.") for name in trained) == ("placement" in changes)


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"variant": "code"}, INSIDE], ids=["figure", "code", "inside"])
def test_a_padded_clip_gives_what_it_gives_alone(bank_file, changes):
    model = build(bank_file, **changes).eval()
    clips = batch()
    frames, log_mel = clips["frames"], clips["log_mel"]
    present = torch.tensor([[True, True], [True, False]])
    out = model.segment(frames, log_mel, present)
    alone = model.segment(frames[1:, :1], log_mel[1:, :1])
    torch.testing.assert_close(out.logits[1:, :1], alone.logits, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(out.heard.seen[1:, :1], alone.heard.seen, rtol=1e-3, atol=1e-4)
    assert not out.logits[1, 1].any()
    assert out.heard.classes[1, 1].tolist() == [-1, -1, -1]
    assert torch.equal(model(frames, log_mel, present), out.logits)


@torch.no_grad()
def test_the_first_stride_doubles_the_maps_of_mit(bank_file):
    model = build(bank_file, **INSIDE).eval()
    maps = model.visual_encoder(torch.randn(1, 3, 64, 64))
    assert [m.shape[-1] for m in maps] == [32, 16, 8, 4]
    torch.testing.assert_close(
        model.visual_encoder.backbone(torch.ones(1, 3, 64, 64))[3],
        model.visual_encoder(torch.ones(1, 3, 64, 64))[3],
    )


def test_activations_that_are_computed_again_give_the_same_gradients(bank_file):
    def gradient(*, checkpoints: bool) -> torch.Tensor:
        model = build(bank_file, **INSIDE, drop_path=0.0, head_dropout=0.0).train()
        if checkpoints:
            model.checkpoint_activations()
        torch.manual_seed(1)
        training_loss(model, batch())["loss"].backward()
        return model.visual_encoder.backbone["patch_embed"].proj.weight.grad

    torch.testing.assert_close(gradient(checkpoints=True), gradient(checkpoints=False), rtol=1e-3, atol=1e-6)


def test_mits_weight_files_fit_pvt_v2(bank_file, tmp_path):
    """SegFormer's files number patch embeddings, blocks and norms from 1; layers and sizes are pvt_v2's."""
    import timm

    torch.manual_seed(1)
    whole = timm.create_model("pvt_v2_b0")
    names = {"patch_embed.": "patch_embed1."}
    for i in range(4):
        names |= {
            f"stages.{i}.downsample.": f"patch_embed{i + 1}.",
            f"stages.{i}.blocks.": f"block{i + 1}.",
            f"stages.{i}.norm.": f"norm{i + 1}.",
        }
    state = {}
    for name, value in whole.state_dict().items():
        ours = next((n for n in names if name.startswith(n)), "")
        published = names.get(ours, "") + name.removeprefix(ours)
        state[re.sub(r"mlp\.dwconv\.", "mlp.dwconv.dwconv.", published)] = value
    torch.save(state, tmp_path / "mit_b0.pth")
    model = build(bank_file, **INSIDE, backbone_weights=str(tmp_path / "mit_b0.pth"))
    loaded = model.visual_encoder.backbone["stages_1"].downsample.proj.weight
    assert torch.equal(loaded, whole.stages[1].downsample.proj.weight)


@torch.no_grad()
def test_the_scores_tell_which_classes_are_heard_but_not_seen(bank_file):
    model = build(bank_file).eval()
    clips = batch()
    heard = model.segment(clips["frames"], clips["log_mel"]).heard
    assert heard.classes.shape == heard.seen.shape == heard.distances.shape == (2, 2, 3)
    assert int(heard.classes.min()) >= 0
    assert int(heard.classes.max()) < len(CLASSES)
    assert ((heard.seen > 0) & (heard.seen < 1)).all()
    code = build(bank_file, variant="code").eval().segment(clips["frames"], clips["log_mel"]).heard
    torch.testing.assert_close(code.seen.amax(-1), torch.ones(2, 2))
    without = build(bank_file, ablation=Ablation(elimination=False)).eval()
    assert without.segment(clips["frames"], clips["log_mel"]).heard is None


def test_evaluation_is_the_same_every_time_and_training_is_not(bank_file):
    model = build(bank_file)
    clips = batch()
    with torch.no_grad():
        features = model.encode(clips["frames"], clips["log_mel"])
        assert not torch.equal(model.train()(features=features), model(features=features))
        model.eval()
        assert torch.equal(model(features=features), model(features=features))
        torch.testing.assert_close(model(features=features), model(clips["frames"], clips["log_mel"]))


def test_a_frozen_audio_encoder_in_train_mode_is_an_ablation():
    """As the authors' code leaves it: no gradients, but the batch's statistics, and these are part of a checkpoint."""
    base = config(
        None, audio_encoder="htsat", vggish_width=1.0, num_nearest=5, num_prototypes=5, bank_classes=()
    )
    wanted = recipes.RECIPES["audio_in_train_mode"](base)
    assert wanted == dataclasses.replace(base, ablation=Ablation(audio_in_train_mode=True))
    assert not wanted.caches_features
    model = build_model(wanted).train()
    assert model.audio_encoder.training
    assert not any(p.requires_grad for p in model.audio_encoder.parameters())
    running_mean = model.audio_encoder.bn0.running_mean
    assert any(buffer is running_mean for buffer in model.trained_buffers())
    log_mel = torch.randn(2, 2, 1, 87, 64)
    model(batch()["frames"], log_mel)
    assert running_mean.any()
    model.eval()
    assert not model.audio_encoder.training
    assert not build_model(base).train().audio_encoder.training


def test_a_step_trains_and_the_artifact_holds_the_bank(bank_file, tmp_path):
    model = build(bank_file)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    model.train()
    training_loss(model, batch())["loss"].backward()
    optimizer.step()
    after = model.state_dict()
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"derivation", "audio_mlps", "eliminations", "head"}
    assert "bank" in after
    assert model.bank.shape == (4, 2, 128)
    assert not any(buffer is model.bank for buffer in model.trained_buffers())

    save_artifact(
        tmp_path, model=model.eval(), classes=["background", "sounding object"], metrics={}, lineage={}
    )
    loaded = load_artifact(tmp_path)
    assert loaded.config == dataclasses.replace(model.config, bank=None, freeze_audio_encoder=True)
    assert loaded.config.bank_classes == CLASSES
    clips = batch()
    with torch.no_grad():
        expected, got = (m(clips["frames"], clips["log_mel"]) for m in (model, loaded.model))
    assert torch.equal(expected, got)


@pytest.mark.parametrize(
    ("bank", "changes", "message"),
    [
        (
            {},
            {"bank_classes": ("cat", "dog", "horse", "piano")},
            r"bank_classes: cat, dog, horse, piano; the bank has",
        ),
        ({"embedding": 64}, {}, r"bank: has prototypes of 64 channels; vggish gives 128"),
        ({"audio_encoder": "yamnet"}, {}, r"bank: was made with audio_encoder='yamnet', not 'vggish'"),
        ({"n": 3}, {}, r"num_prototypes: 2, but the bank has 3 of each class"),
        ({"classes": ("cat", "dog")}, {"bank_classes": ()}, r"num_nearest: 3, but the bank has 2 classes"),
    ],
)
def test_a_bank_that_does_not_fit_is_refused_with_the_field(tmp_path, bank, changes, message):
    with pytest.raises(ValueError, match=message):
        build(save_bank(tmp_path / "bank.safetensors", **bank), **changes)


def test_a_file_that_is_no_bank_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"bank: no such file: .*nowhere; allowed: a file that .* bank"):
        build(str(tmp_path / "nowhere"))
    torch.save({}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"bank: .*other.pt is not a bank of audio semantics"):
        build(str(tmp_path / "other.pt"))
    changed = Path(save_bank(tmp_path / "changed"))
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    with pytest.raises(ValueError, match=r"bank: .*changed was changed after it was written: sha256"):
        build(str(changed))
    changed.write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"bank: .*changed is not a bank of audio semantics"):
        build(str(changed))


def test_a_bank_of_an_earlier_version_has_no_digest_and_is_read(tmp_path, bank_file):
    bank = read_bank(bank_file)
    record = {"bank": json.dumps(dataclasses.asdict(bank.record))}
    save_file({"prototypes": bank.prototypes}, tmp_path / "earlier", metadata=record)
    assert read_bank(tmp_path / "earlier").digest == bank.digest


def test_an_artifact_without_its_bank_is_refused(tmp_path, bank_file):
    save_artifact(
        tmp_path, model=build(bank_file).eval(), classes=["silent", "sounding"], metrics={}, lineage={}
    )
    weights, card = tmp_path / "model.safetensors", tmp_path / "sdavs.json"
    save_file({n: t for n, t in load_file(weights).items() if n != "bank"}, weights)
    values = json.loads(card.read_text())
    values["sha256"]["model.safetensors"] = sha256_of(weights)
    card.write_text(json.dumps(values))
    with pytest.raises(
        ValueError, match=r'(?s)does not fit the config in sdavs.json: .*Missing key.* "bank"'
    ):
        load_artifact(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"variant": "paper"}, r"variant: 'paper' .*figure, code"),
        ({"num_nearest": 0}, r"num_nearest: 0 .*1 or more"),
        (
            {"placement": "before_blocks", "backbone": "resnet10t"},
            r"placement: 'before_blocks' needs .* pvt_v2",
        ),
        ({"placement": "before_blocks", "freeze_backbone": True}, r"freeze_backbone: .*depends on the sound"),
        ({"first_stride": 2}, r"first_stride: has no effect"),
        ({"ablation": Ablation(derivation=False), "bank": "x"}, r"bank: has no effect"),
        ({"ablation": Ablation(derivation=False), "token_width": 8}, r"token_width: has no effect"),
        (
            {"audio_encoder": "yamnet", "ablation": Ablation(audio_in_train_mode=True)},
            r"ablation.audio_in_train_mode: yamnet computes the same .*audio_encoder='htsat'",
        ),
        (
            {"freeze_audio_encoder": False, "ablation": Ablation(audio_in_train_mode=True)},
            r"ablation.audio_in_train_mode: has no effect .*freeze_audio_encoder=true",
        ),
        ({"bank_classes": ("a", "b")}, r"num_nearest: 5, but the bank has 2 classes"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused_with_its_key(values, message):
    with pytest.raises(ValueError, match=message):
        DDESegConfig(**values)


def test_a_config_comes_back_from_json(bank_file):
    own = config(bank_file, ablation=Ablation(discriminative=False))
    values = own.to_dict()
    assert values["architecture"] == "ddeseg"
    assert config_from_dict(values | {"bank_classes": list(CLASSES)}) == own
    with pytest.raises(ValueError, match="width: unknown key"):
        config_from_dict(values | {"width": 256})


@pytest.mark.slow
def test_the_parts_have_the_published_sizes():
    found = cost(recipes.BASE)
    checks = budgets.checks(recipes.BASE.backbone, "figure", {"figure": found})
    assert {check.quantity: check.within for check in checks} == dict.fromkeys(
        ("derivation, M", "audio MLPs, M", "elimination, M", "head, M", "parameters, M"), True
    )


def test_recipes_change_one_thing_each():
    base = config(None, num_nearest=5, num_prototypes=5, bank_classes=())
    full = recipes.figure(base)
    assert full == base
    assert recipes.code(base) == dataclasses.replace(base, variant="code")
    assert recipes.one_nearest(base) == dataclasses.replace(base, num_nearest=1)
    assert recipes.without_elimination(recipes.code(base)).variant == "figure"
    assert not recipes.without_derivation(base).needs_bank
    assert all(name in recipes.RECIPES for table in recipes.TABLES.values() for name in table)
