"""Which files of tests one process runs together, and which come first."""

SHARE_A_CLUSTER = (
    "tests/platform/test_training.py",
    "tests/platform/test_resume.py",
    "tests/platform/test_frozen_encoders.py",
    "tests/platform/test_storage.py",
    "tests/platform/test_ray_internals.py",
    "tests/platform/test_semantic_training.py",
)
"""The files of the fixture `two_cpus`: each process that got one of them would start a cluster."""

LONGEST_FIRST = (
    "tests/serve",
    SHARE_A_CLUSTER[0],
    "tests/platform/test_nodes.py",
    "tests/tuning/test_real_sweep.py",
    "tests/platform/test_elastic.py",
    "tests/infra/test_mlflow_on_postgres.py",
    "tests/tuning/test_driver.py",
    "tests/test_local_stack.py",
    "tests/platform/test_cluster.py",
    "tests/model/test_compile.py",
    "tests/model/test_numerics_parallel.py",
    "tests/platform/test_deepspeed_internals.py",
    "tests/platform/test_delivery_queue.py",
)
"""What takes longest begins first, so that no process works alone at the end."""


def scope_of(nodeid: str) -> str:
    """What one process runs in one go: a file, or the files that share an endpoint or a cluster."""
    if nodeid.startswith("tests/serve/"):
        return "tests/serve"
    file = nodeid.split("::", 1)[0]
    return SHARE_A_CLUSTER[0] if file in SHARE_A_CLUSTER else file


def rank_of(nodeid: str) -> int:
    """By which tests are sorted; files that are not named stay in pytest's order, at the end."""
    scope = scope_of(nodeid)
    return LONGEST_FIRST.index(scope) if scope in LONGEST_FIRST else len(LONGEST_FIRST)
