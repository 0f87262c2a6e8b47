"""What `kubectl apply -k` would send: complete, closed, and serving with the laptop's own config."""

import copy
import json
import re
import shutil

import generate
import make_secrets
import manifests
import pytest
import yaml
from sdavs_platform.config.cli import load_config
from sdavs_platform.config.tree import ServeConfig
from sdavs_serve.deployment import declaration

pytestmark = pytest.mark.skipif(
    not shutil.which("kubectl"), reason="kubectl builds the overlays; it is not installed"
)


@pytest.fixture(scope="module")
def built() -> dict[str, list[dict]]:
    return {overlay: manifests.build(overlay) for overlay in manifests.OVERLAYS}


def find(resources: list[dict], kind: str, name: str = "sdavs") -> dict:
    return next(r for r in resources if r["kind"] == kind and r["metadata"]["name"] == name)


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_everything_that_a_pod_names_is_made_by_the_overlay_or_by_make_secrets(built, overlay: str):
    secrets = make_secrets.make()
    assert manifests.missing_references(built[overlay], secrets) == []
    spec = find(built[overlay], "Deployment", "mlflow")["spec"]["template"]["spec"]
    spec = copy.deepcopy(spec)
    spec["containers"][0]["env"].append(
        {"name": "X", "valueFrom": {"secretKeyRef": {"name": "mlflow-admin", "key": "passwort"}}}
    )
    broken = {"kind": "Deployment", "metadata": {"name": "m"}, "spec": {"template": {"spec": spec}}}
    assert any("has no key passwort" in line for line in manifests.missing_references([broken], secrets))


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_operators_know_every_field_and_a_misspelt_one_is_found(built, overlay: str):
    assert manifests.unknown_fields(built[overlay] + manifests.load_jobs()) == []
    cluster = copy.deepcopy(find(built[overlay], "RayCluster", "sdavs-jobs"))
    cluster["spec"]["authOptions"] = {"mod": "token"}
    cluster["spec"]["workerGroupSpecs"][0]["minReplicas"] = "none"
    problems = manifests.unknown_fields([cluster])
    assert len(problems) == 2
    assert "'mod' was unexpected" in "".join(problems)


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_no_container_runs_as_root_or_may_gain_rights(built, overlay: str):
    templates = dict(manifests.pod_templates(built[overlay]))
    assert len(templates) >= 9
    for where, template in templates.items():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, where
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        for container in spec["containers"] + spec.get("initContainers", []):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, where
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, where
            assert {"requests", "limits"} <= set(container["resources"]), where
            assert re.fullmatch(r"[\w.-]+/[\w./-]+:[\w.-]+", container["image"]), where


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_ray_lets_in_who_has_the_token_and_survives_its_head(built, overlay: str):
    clusters = [
        find(built[overlay], "RayCluster", "sdavs-jobs")["spec"],
        find(built[overlay], "RayService")["spec"]["rayClusterConfig"],
    ]
    for cluster in clusters:
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"]
        assert cluster["autoscalerOptions"]["version"] == "v2"
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_pods_of_eight_gpus_can_be_added_to_an_overlay_and_are_guarded_like_the_others(tmp_path, monkeypatch):
    shutil.copytree(manifests.KUBERAY.parent, tmp_path, dirs_exist_ok=True)
    overlay = tmp_path / "kuberay" / "overlays" / "gpu" / "kustomization.yaml"
    content = overlay.read_text()
    last = "  - ../../components/same-pods"
    added = "".join(f"  - ../../components/{name}\n" for name in ("multi-gpu", "efa", "kueue"))
    overlay.write_text(content.replace(last, f"{added}{last}"))
    monkeypatch.setattr(manifests, "KUBERAY", tmp_path / "kuberay")
    resources = manifests.build("gpu")
    assert manifests.unknown_fields(resources) == []
    groups = find(resources, "RayCluster", "sdavs-jobs")["spec"]["workerGroupSpecs"]
    assert [group["groupName"] for group in groups] == ["cpu", "gpu", "gpu8"]
    group = groups[-1]
    assert json.loads(json.loads(group["rayStartParams"]["resources"])) == {"accelerator_type:H100": 1}
    pod = group["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert container["resources"]["limits"]["vpc.amazonaws.com/efa"] == "4"
    assert {"name": "FI_PROVIDER", "value": "efa"} in container["env"]
    # The cluster waits in a queue that exists, with a priority that exists, for a quota of all that its pods ask for.
    cluster = find(resources, "RayCluster", "sdavs-jobs")
    labels = cluster["metadata"]["labels"]
    assert cluster["spec"]["suspend"] is True
    queue = find(resources, "LocalQueue", labels["kueue.x-k8s.io/queue-name"])
    assert find(resources, "WorkloadPriorityClass", labels["kueue.x-k8s.io/priority-class"])
    (covered,) = find(resources, "ClusterQueue", queue["spec"]["clusterQueue"])["spec"]["resourceGroups"]
    asked = {
        name
        for group in groups
        for name in group["template"]["spec"]["containers"][0]["resources"]["requests"]
    }
    assert asked - set(covered["coveredResources"]) == set()
    assert container["lifecycle"]["preStop"]


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_a_workers_pod_is_drained_before_it_ends_and_within_its_grace_period(built, overlay: str):
    clusters = [
        find(built[overlay], "RayCluster", "sdavs-jobs")["spec"],
        find(built[overlay], "RayService")["spec"]["rayClusterConfig"],
    ]
    for group in (group for cluster in clusters for group in cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        *shell, script = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert shell == ["/bin/sh", "-c"]
        asking, deadline, waited = (
            int(re.search(rf"{word} (\d+)", script)[1])
            for word in ("timeout", "--deadline-remaining-seconds", r"\$\(seq")
        )
        assert deadline == waited
        # `ray stop` takes up to 16 seconds.
        assert asking + waited + 16 < pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_no_two_resources_share_a_service_and_jobs_go_to_a_cluster_that_exists(built, overlay: str):
    # KubeRay makes NAME-head-svc for a RayCluster and for a RayService alike, NAME-serve-svc for the latter.
    clusters = [r["metadata"]["name"] for r in built[overlay] if r["kind"] == "RayCluster"]
    endpoints = [r["metadata"]["name"] for r in built[overlay] if r["kind"] == "RayService"]
    services = [f"{name}-head-svc" for name in clusters + endpoints] + [
        f"{name}-serve-svc" for name in endpoints
    ]
    services += [r["metadata"]["name"] for r in built[overlay] if r["kind"] == "Service"]
    assert len(set(services)) == len(services)
    # Who calls the endpoint finds it.
    job = find(built[overlay], "Job", "mlflow-configure")["spec"]["template"]["spec"]["containers"][0]
    (url,) = (entry["value"] for entry in job["env"] if entry["name"] == "WEBHOOK_URL")
    assert url.split("/")[2].split(":")[0] in services
    for created in manifests.load_jobs():
        assert created["spec"]["clusterSelector"]["ray.io/cluster"] in clusters


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_the_endpoint_has_the_same_config_on_kubernetes_as_on_a_laptop(built, overlay: str):
    config = load_config([generate.ROOT / "jobs/configs/serve" / generate.OVERLAYS[overlay]]).serve
    declared = yaml.safe_load(find(built[overlay], "RayService")["spec"]["serveConfigV2"])
    assert declared == yaml.safe_load(yaml.safe_dump(declaration(config)))
    assert ServeConfig.model_validate(declared["applications"][0]["args"]) == config
    # Reachable by others, so never without keys.
    assert config.host == "0.0.0.0"
    assert config.require_keys
    assert declared["http_options"] == {"host": "0.0.0.0", "port": 8000}


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_the_endpoints_workers_hold_both_versions_of_a_rollout_at_once(built, overlay: str):
    spec = find(built[overlay], "RayService")["spec"]
    config = ServeConfig.model_validate(yaml.safe_load(spec["serveConfigV2"])["applications"][0]["args"])
    (group,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    copies = 2 * config.max_replicas
    assert group["maxReplicas"] * float(limits["cpu"]) >= copies * config.num_cpus
    assert group["maxReplicas"] * float(limits.get("nvidia.com/gpu", 0)) >= copies * config.num_gpus


def test_nothing_generated_differs_from_its_source():
    stale = [path for path, wanted in generate.generated().items() if path.read_text() != wanted]
    assert not stale, "run `make infra`"


def test_each_call_of_make_secrets_makes_other_secrets_and_valid_api_keys(tmp_path):
    from sdavs_serve.http.keys import KeyFile

    first, second = make_secrets.make(), make_secrets.make()
    values = [value for made in (first, second) for name, data in made.items() for key, value in data.items()]
    assert len(set(values)) == len(values) - 2  # the two user names
    (tmp_path / "keys.json").write_text(first["endpoint-keys"]["keys.json"])
    keys = KeyFile(tmp_path / "keys.json")
    assert keys.find(first["endpoint-metrics"]["token"]).scope == "admin"
    assert keys.find(second["endpoint-metrics"]["token"]) is None


def test_the_ingress_has_the_limits_that_the_threat_model_names(built):
    annotations = find(built["production"], "Ingress", "endpoint")["metadata"]["annotations"]
    prefix = "nginx.ingress.kubernetes.io/"
    limits = {name.removeprefix(prefix): value for name, value in annotations.items() if "limit-" in name}
    text = (generate.ROOT / "docs" / "threat_model.md").read_text()
    assert limits
    for name, value in limits.items():
        assert f"`{name}: {value}`" in text, name
