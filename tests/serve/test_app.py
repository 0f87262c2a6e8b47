"""What the deployments may use, and when Serve takes one of their replicas for dead."""

import pytest
from sdavs_platform.config.serve import ServeConfig
from sdavs_serve import app
from sdavs_serve.inference.device import PROBE_S
from sdavs_serve.inference.predictor import batches_at_once


@pytest.fixture
def deployments():
    """All four by name, of an endpoint with a `timeout_s` of its own."""
    ingress = app.build({"timeout_s": 77})._bound_deployment
    _, slots, controller = ingress.init_args
    found = [ingress, *(bound._bound_deployment for bound in (*slots.values(), controller))]
    return {deployment.name: deployment for deployment in found}


def test_every_replica_leases_cpu_so_that_none_lands_on_a_head_that_offers_none(deployments):
    assert set(deployments) == {"ingress", "rollout", "model-a", "model-b"}
    assert all(deployment.ray_actor_options["num_cpus"] > 0 for deployment in deployments.values())


def test_requests_in_work_may_end_before_a_replica_does(deployments):
    for name in ("ingress", "model-a", "model-b"):
        assert deployments[name]._deployment_config.graceful_shutdown_timeout_s == 77


def test_a_replica_that_hangs_is_replaced_after_half_a_minute_and_a_probe_ends_before_its_check(deployments):
    for deployment in deployments.values():
        config = deployment._deployment_config
        assert 3 * config.health_check_timeout_s == 30, "Serve waits for three checks in a row"
        assert config.health_check_timeout_s > PROBE_S


@pytest.mark.parametrize(
    ("settings", "num_cores", "num_at_once"),
    [
        ({}, 2, 2),
        ({}, 64, 4),
        ({"num_cpus": 2}, 2, 1),
        ({"num_cpus": 1.25}, 3, 3),
        ({"num_cpus": 4}, 1, 1),
        ({"num_gpus": 0.5}, 16, 1),
    ],
)
def test_a_replica_predicts_a_batch_for_each_core_that_its_threads_leave_and_on_a_gpu_one(
    settings, num_cores, num_at_once
):
    assert batches_at_once(ServeConfig(**settings), num_cores=num_cores) == num_at_once


def test_an_endpoint_has_at_least_one_replica():
    with pytest.raises(ValueError, match=r"min_replicas\n.*greater than or equal to 1"):
        ServeConfig(min_replicas=0)
