"""Result files of benchmarks: their names, what they state, and the ratios in them."""

import json

from sdavs_platform.benchmarks.result_files import PACKAGES, environment, file_name, ratios, write


def test_a_files_name_has_hardware_number_format_and_compile_state():
    cpu = {"cpu": "AMD EPYC 7R13", "cores": 2, "gpu": None}
    assert file_name(cpu, precision="fp32", compiled=False) == "amd-epyc-7r13-2-cores-fp32-eager.json"
    gpu = cpu | {"gpu": "NVIDIA H100 80GB HBM3"}
    assert file_name(gpu, precision="bf16", compiled=True) == "nvidia-h100-80gb-hbm3-bf16-compiled.json"


def test_a_file_states_command_hardware_versions_commit_and_date(tmp_path):
    path = write(tmp_path / "results", "here.json", environment("python jobs/benchmark.py all"))
    found = json.loads(path.read_text())
    assert found["command"] == "python jobs/benchmark.py all"
    assert found["hardware"]["cores"] >= 1
    assert set(found["versions"]) == {"python", *PACKAGES}
    assert found["commit"]
    assert found["date"].endswith("UTC")


def test_ratios_come_from_the_subjects_that_ran():
    speed = {"ratio": 1.3, "cpu_ratio": 1.25}
    results = {
        "model": {"rows": [{"backbone": "pvt_v2_b5", "image_size": 384, "speed": speed}]},
        "data": {"wait": {"augmented": {"2": 0.01}}},
        "training": {"ratio": 0.99, "cpu_ratio": 0.98},
        "serve": [
            {"what": "bare model, 1 at once", "clips_per_s": 4.0},
            {"what": "bare model, 4 at once", "clips_per_s": 5.0},
            {"what": "endpoint, in batches, 4 clients", "clips_per_s": 3.0},
        ],
    }
    assert ratios(results) == {
        "whole model / bare backbone, pvt_v2_b5 at 384 px": 1.3,
        "whole model / bare backbone, CPU time, pvt_v2_b5 at 384 px": 1.25,
        "training: speed of the platform / bare loop": 0.99,
        "training: the same by CPU time": 0.98,
        "waiting for the loader / step, augmented, 2 processes": 0.01,
        "serving: endpoint / bare model, clips/s at their best": 0.6,
    }
    assert ratios({}) == {}
