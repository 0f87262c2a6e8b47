"""The config tree: what it accepts, and what it says when it does not."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from sdavs_platform.config.cli import config_keys, load_config, parse_config, validated
from sdavs_platform.config.paths import state_folder
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.tracking.runs import changed_keys, flattened, resolved_yaml
from sdavs_platform.training.preflight import resolved

from sdavs_model.architectures import ARCHITECTURES
from sdavs_model.architectures.ddeseg.config import DDESegConfig
from sdavs_model.architectures.sdavs.config import SDAVSConfig

CONFIGS = Path(__file__).resolve().parents[2] / "jobs" / "configs"


def parsed(argv: list[str]) -> RunConfig:
    return parse_config(argparse.ArgumentParser(allow_abbrev=False), default_yaml=None, argv=argv)[0]


def refusal(overrides: dict) -> list[str]:
    with pytest.raises(ValueError, match=":") as caught:
        load_config(overrides=overrides)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("model.backbnoe", "model.backbone"),
        ("optimzer.lr", "optimizer"),
        ("lr", "optimizer.lr"),
        ("data.augment.rotatoin", "data.augment.rotation"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_nearest_name(key, nearest):
    (line,) = refusal({key: 1})
    assert "unknown key" in line
    assert line.endswith(f"did you mean {nearest}?")


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("deepspeed.zero_stage", 7, "allowed: 0 | 1 | 2 | 3"),
        ("optimizer.lr", 0, "allowed: number above 0"),
        ("model.width", -1, "allowed: a multiple of 8"),
        ("model.backbone", "resnet_from_hell", "pvt_v2_b0"),
        ("model.ablation.rm", "divide", "multiply"),
        ("training.batch_size", 3, "allowed: multiples of cluster.num_workers"),
        ("cluster.num_workers", [2, 1], "[least, most]"),
        ("cluster.num_workers", 0, "a whole number from 1"),
        ("deepspeed.offload_optimizer", "sometimes", "true | false"),
        ("serve.max_replicas", 0, "allowed: whole number from 1"),
        ("tracking.registered_model", "sdavs.v2", "must not be empty or contain / : . %"),
        ("tracking.registered_model", " ", "must not be empty"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_what_is_allowed(key, value, allowed):
    (line,) = refusal({key: value})
    assert line.startswith(f"{key}: ")
    assert allowed in line


def test_a_key_of_another_architecture_is_refused_with_those_of_the_named_one():
    (line,) = refusal({"model.architecture": "tpavi", "model.ablation.rm": "add"})
    assert line.startswith(
        "model.ablation: a key of model.architecture=ddeseg or sdavs, not of tpavi; allowed: "
    )
    allowed = line.partition("allowed: ")[2].split(", ")
    assert {"model.fusion", "model.width", "model.backbone"} <= set(allowed)
    assert not {key for key in allowed if key.startswith(("model.ablation", "model.num_heads"))}
    (line,) = refusal({"model.architecture": "tpvi"})
    allowed = ", ".join(ARCHITECTURES)
    assert line == f"model.architecture: no 'tpvi'; did you mean tpavi? allowed: {allowed}"
    (line,) = refusal({"model.architecture": "tpavi", "model.width": 3})
    assert line == "model.width: 3 is not allowed; allowed: a multiple of 8"


def test_a_key_that_several_architectures_have_is_listed_with_the_default_of_the_first():
    listed = {key.path: (key.default, key.architectures) for key in config_keys()}
    assert listed["model.architecture"] == ("sdavs", tuple(ARCHITECTURES))
    assert listed["model.image_size"] == (SDAVSConfig().image_size, tuple(ARCHITECTURES))
    assert listed["model.variant"] == ("figure", ("ddeseg",))
    others = {key.path: key.other_defaults for key in config_keys()}
    assert others["model.image_size"] == (("ddeseg", DDESegConfig().image_size),)
    assert others["model.architecture"] == others["model.backbone"] == ()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_recorded_config_is_read_back_and_names_its_architecture(architecture):
    config = load_config(overrides={"model.architecture": architecture})
    assert type(config.model) is ARCHITECTURES[architecture].config
    assert validated(yaml.safe_load(resolved_yaml(config))) == config
    assert flattened(config)["model.architecture"] == architecture


def test_a_recorded_config_without_an_architecture_is_that_of_sdavs():
    recorded = flattened(load_config())
    del recorded["model.architecture"]
    assert changed_keys(load_config(), recorded) == []
    assert "model.ablation.rm" in changed_keys(
        load_config(overrides={"model.architecture": "tpavi"}), recorded
    )


def test_every_mistake_gets_its_own_line():
    lines = refusal({"seed": -1, "optimizer.gamma": 2, "cluster.use_gpu": "perhaps"})
    assert [line.split(":")[0] for line in lines] == ["seed", "optimizer.gamma", "cluster.use_gpu"]


def test_flags_win_over_the_last_file_and_that_over_the_first(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 1\noptimizer: {lr: 0.1, gamma: 0.5}\n")
    (tmp_path / "b.yaml").write_text("seed: 2\noptimizer: {lr: 0.2}\n")
    arguments = ["--config", f"{tmp_path}/a.yaml", "--config", f"{tmp_path}/b.yaml", "--seed", "3"]
    config = parsed(arguments)
    assert (config.seed, config.optimizer.lr, config.optimizer.gamma) == (3, 0.2, 0.5)


TYPED = ["2026-07-01", "007", "20260701", "12_30", "on", "no", "1.0", "true", "null", "1e3"]


@pytest.mark.parametrize("name", TYPED)
def test_a_text_key_takes_what_was_typed_also_where_yaml_reads_a_date_a_number_or_a_boolean(tmp_path, name):
    flag = parsed(["--name", name])
    (tmp_path / "a.yaml").write_text(f"name: {name}\n")
    assert flag.name == load_config([tmp_path / "a.yaml"]).name == name


def test_texts_of_sections_and_lists_are_taken_as_typed_too(tmp_path):
    (tmp_path / "a.yaml").write_text("tracking: {experiment: 2026}\ndata: {test_splits: [1, 02]}\n")
    argv = ["--config", f"{tmp_path}/a.yaml", "--data.train_split", "1", "--storage.uri", "/results #2"]
    config = parsed(argv)
    assert config.tracking.experiment == "2026"
    assert config.data.test_splits == ("1", "02")
    assert config.data.train_split == "1"
    assert config.storage.uri == "/results #2"
    (tmp_path / "b.yaml").write_text(
        "data: {mix: [{root: /2026, split: 01, weight: 2}]}\ncluster: {env: {A: 1, B: no, on: 1.0}}\n"
    )
    config = load_config([tmp_path / "b.yaml"])
    assert [(each.root, each.split, each.weight) for each in config.data.mix] == [("/2026", "01", 2.0)]
    assert config.cluster.env == {"A": "1", "B": "no", "on": "1.0"}
    assert parsed(["--cluster.env", "{A: no}"]).cluster.env == {"A": "no"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_a_file_may_have_the_encodings_of_windows(tmp_path, encoding):
    (tmp_path / "a.yaml").write_bytes("tracking: {experiment: Größe}\r\n".encode(encoding))
    assert load_config([tmp_path / "a.yaml"]).tracking.experiment == "Größe"
    (tmp_path / "a.yaml").write_bytes(b"\x81\x8d\0\xff")
    with pytest.raises(ValueError, match=r"a\.yaml: is not text"):
        load_config([tmp_path / "a.yaml"])


def test_a_key_that_is_given_twice_is_refused_with_its_line(tmp_path):
    (tmp_path / "a.yaml").write_text("data: {mix: [{root: /a, split: x, root: /b}]}\n")
    with pytest.raises(ValueError, match=r"a\.yaml: line 1: root is given more than once"):
        load_config([tmp_path / "a.yaml"])
    (tmp_path / "a.yaml").write_text("name: x\nseed: 1\nname: y\n")
    with pytest.raises(ValueError, match=r"a\.yaml: line 3: name is given more than once"):
        load_config([tmp_path / "a.yaml"])


def test_a_dotted_key_in_a_file_and_a_name_with_other_letters_get_a_line_of_their_own(tmp_path):
    (tmp_path / "a.yaml").write_text("tracking.experiment: x\nname: Größe\n")
    with pytest.raises(ValueError, match="name: ") as refused:
        load_config([tmp_path / "a.yaml"])
    assert sorted(str(refused.value).splitlines()) == [
        "name: Größe is not allowed: must begin with a letter from A to Z or a digit, and hold only these and . _ -",
        "tracking.experiment: in a file, a key belongs in its section: tracking: {experiment: ...}",
    ]


def test_null_unsets_a_text_key_that_may_be_unset_and_quotes_make_it_text(tmp_path):
    (tmp_path / "a.yaml").write_text("tracking: {registered_model: null}\n")
    assert load_config([tmp_path / "a.yaml"]).tracking.registered_model is None
    for typed, meant in (("null", None), ("'null'", "null"), ('"007"', "007")):
        config = parsed(["--tracking.registered_model", typed])
        assert config.tracking.registered_model == meant


def test_a_key_of_earlier_versions_that_had_no_effect_is_accepted(tmp_path):
    (tmp_path / "old.yaml").write_text("tracking: {alias: champion, experiment: mine}\n")
    assert load_config([tmp_path / "old.yaml"]).tracking.experiment == "mine"


def test_a_mistake_on_the_command_line_exits_with_status_2_and_one_line(capsys):
    with pytest.raises(SystemExit) as exit_status:
        parsed(["--training.epoch", "3"])
    assert exit_status.value.code == 2
    assert capsys.readouterr().err.strip().endswith("unknown key; did you mean training.epochs?")


def test_help_explains_every_key_with_its_type_and_default(capsys):
    with pytest.raises(SystemExit):
        parsed(["--help"])
    shown = capsys.readouterr().out
    for key in config_keys():
        assert f"--{key.path} " in shown
        assert key.help, f"{key.path} has no docstring"


def test_accents_of_names_and_folders_may_be_typed_composed_or_decomposed(tmp_path, monkeypatch):
    folder = tmp_path / "e\u0301te\u0301"  # as macOS writes it
    folder.mkdir()
    monkeypatch.setenv("SDAVS_HOME", str(tmp_path / "\u00e9t\u00e9"))
    assert state_folder() == folder
    typed = {"data.root": str(tmp_path / "\u00e9t\u00e9"), "tracking.experiment": "e\u0301te\u0301"}
    config = load_config(overrides=typed | {"data.test_splits": ["e\u0301"]})
    assert config.data.root == str(folder)
    assert config.tracking.experiment == "\u00e9t\u00e9"
    assert config.data.test_splits == ("\u00e9",)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_is_valid(path):
    load_config([path])


@pytest.mark.parametrize("name", ["ms3_pvt", "ms3_swin", "s4_pvt", "avss_pvt"])
def test_the_papers_configs_need_pretrained_encoders_unless_from_scratch_is_set(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SDAVS_HOME", str(tmp_path))
    paper = load_config([CONFIGS / f"{name}.yaml"])
    assert paper.model.pretrained
    assert not paper.data.augmented  # as published
    with pytest.raises(
        ValueError, match=r"^model.audio_weights: vggish.audioset is not in .*from_scratch true$"
    ):
        resolved(paper)
    declared = {"model.from_scratch": True, "data.root": str(tmp_path)}
    scratch = resolved(load_config([CONFIGS / f"{name}.yaml"], declared))
    assert scratch.model.audio_weights is None
    assert not scratch.model.audio_encoder_is_frozen


def test_keys_of_earlier_versions_are_still_read(tmp_path):
    (tmp_path / "old.yaml").write_text("model: {vggish_weights: vggish.pth}\n")
    assert load_config([tmp_path / "old.yaml"]).model.audio_weights == "vggish.pth"


def test_a_config_is_read_without_torch_so_that_help_and_refusals_come_at_once():
    program = (
        "import sys, sdavs_platform.config.cli; "
        "print([name for name in ('torch', 'timm', 'ray', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"training.accumulate": 2, "deepspeed.zero_stage": 3}, "training.accumulate"),
        ({"training.accumulate": 3}, "training.accumulate"),
        ({"training.ema": 0.9, "deepspeed.zero_stage": 3}, "training.ema"),
        ({"training.ema": 0.9, "deepspeed.zero_stage": 0, "training.precision": "bf16"}, "training.ema"),
        ({"training.compile": True, "deepspeed.zero_stage": 3}, "training.compile"),
    ],
)
def test_what_a_zero_stage_or_a_batch_cannot_do_is_refused_by_key(overrides, key):
    (line,) = refusal(overrides)
    assert line.startswith(f"{key}: ")
    assert "allowed: " in line


@pytest.mark.parametrize(("num_gpus", "decided"), [(1, False), (2, True), (8, True)])
def test_use_gpu_auto_takes_gpus_where_the_cluster_has_one_for_each_worker(num_gpus, decided, monkeypatch):
    from sdavs_platform import cluster

    node = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": float(num_gpus)}}
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [node])
    config = RunConfig.model_validate({"cluster": {"use_gpu": "auto", "num_workers": [2, 4]}})
    assert cluster.with_gpus_decided(config).cluster.use_gpu is decided
    fixed = RunConfig.model_validate({"cluster": {"use_gpu": not decided}})
    assert cluster.with_gpus_decided(fixed) == fixed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fold": 0}, r"data: fold: 0 needs data.num_folds, too|data.fold: 0 needs data.num_folds, too"),
        ({"num_folds": 5}, "num_folds: 5 needs data.fold, too"),
        ({"fold": 5, "num_folds": 5}, r"fold: 5 is not allowed; allowed with data.num_folds=5: 0 to 4"),
        ({"fold": 0, "num_folds": 1}, "data.num_folds"),
    ],
)
def test_a_fold_is_one_of_several(given, message):
    with pytest.raises(ValueError, match=message):
        validated({"data": given})


@pytest.mark.parametrize(
    ("overrides", "limit_s"),
    [
        ({}, 600),
        ({"training.hang_seconds": 10}, 10),
        ({"training.hang_seconds": 10, "training.compile": True}, 60),
        ({"training.hang_seconds": None, "training.compile": True}, None),
    ],
)
def test_a_step_that_may_include_a_compilation_is_taken_for_a_hang_later(overrides, limit_s):
    assert load_config(overrides=overrides).training.hang_limit == limit_s
