"""Which files of tests one process runs together, and which come first."""

SHARE_AN_ENDPOINT = (
    "tests/serve/test_endpoint.py",
    "tests/serve/test_exported_metrics.py",
    "tests/serve/test_keys.py",
    "tests/serve/test_page.py",
    "tests/serve/test_rollout.py",
    "tests/serve/test_semantic.py",
)
"""The files of the fixture `stack`: each process that got one of them would start an endpoint."""

SHARE_A_CLUSTER = (
    "tests/platform/test_training.py",
    "tests/platform/test_resume.py",
    "tests/platform/test_frozen_encoders.py",
    "tests/platform/test_storage.py",
    "tests/platform/test_ray_internals.py",
    "tests/platform/test_semantic_training.py",
)
"""The files of the fixture `two_cpus`: each process that got one of them would start a cluster."""

SHARE_A_FORK_SERVER = (
    "tests/platform/test_elastic.py",
    "tests/platform/test_deepspeed_internals.py",
    "tests/model/test_numerics_parallel.py",
)
"""The files of `run_processes`: each process that got one of them would import DeepSpeed once more."""

LONGEST_FIRST = (
    SHARE_A_CLUSTER[0],
    SHARE_AN_ENDPOINT[0],
    "tests/platform/test_nodes.py",
    "tests/tuning/test_real_sweep.py",
    SHARE_A_FORK_SERVER[0],
    "tests/infra/test_mlflow_on_postgres.py",
    "tests/serve/test_decoding.py",
    "tests/test_local_stack.py",
    "tests/model/test_compile.py",
    "tests/model/test_numerics.py",
    "tests/tuning/test_driver.py",
    "tests/platform/test_delivery_queue.py",
    "tests/platform/test_cluster.py",
    "tests/infra/test_gpu_check.py",
    "tests/model/test_backbones.py",
    "tests/serve/test_media.py",
    "tests/serve/test_controller.py",
)
"""What takes longest begins first, so that no process works alone at the end."""


def scope_of(nodeid: str) -> str:
    """What one process runs in one go: a file, or the files that share what takes long to start."""
    file = nodeid.split("::", 1)[0]
    for together in (SHARE_AN_ENDPOINT, SHARE_A_CLUSTER, SHARE_A_FORK_SERVER):
        if file in together:
            return together[0]
    return file


def rank_of(nodeid: str) -> int:
    """By which tests are sorted; files that are not named stay in pytest's order, at the end."""
    scope = scope_of(nodeid)
    return LONGEST_FIRST.index(scope) if scope in LONGEST_FIRST else len(LONGEST_FIRST)
