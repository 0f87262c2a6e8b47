"""Write what has its source elsewhere: overlays' Serve configs, alert rules as a PrometheusRule, Grafana dashboards.

.venv/bin/python infra/kuberay/generate.py           rewrites them (`make infra`)
.venv/bin/python infra/kuberay/generate.py --check   fails if one is not current
"""

import sys
from pathlib import Path

import yaml
from sdavs_platform.config.cli import load_config
from sdavs_serve.deployment import declaration

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "infra" / "monitoring"))

from dashboards import DASHBOARDS, FOLDER, render  # noqa: E402

OVERLAYS = {"local": "cluster.yaml", "gpu": "gpu.yaml", "production": "production.yaml"}
RULES = ROOT / "infra" / "monitoring" / "rules.yaml"


class _Text(str):
    """Text that YAML shall show as a block."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    _Text, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")
)


def main() -> int:
    wrong = []
    for path, wanted in generated().items():
        if path.is_file() and path.read_text() == wanted:
            continue
        if "--check" in sys.argv[1:]:
            wrong.append(path)
        else:
            path.write_text(wanted)
            print(f"wrote {path.relative_to(ROOT)}")
    for path in wrong:
        print(f"{path.relative_to(ROOT)} is not current; run `make infra`", file=sys.stderr)
    return 1 if wrong else 0


def generated() -> dict[Path, str]:
    """Every generated file with what it should hold.

    Raises:
        ValueError: a config under jobs/configs/serve is wrong.
    """
    files = {}
    for overlay, name in OVERLAYS.items():
        source = ROOT / "jobs" / "configs" / "serve" / name
        declared = declaration(load_config([source]).serve)
        text = yaml.safe_dump(declared, sort_keys=False)
        service = _resource("ray.io/v1", "RayService", {"serveConfigV2": _Text(text)})
        path = ROOT / "infra" / "kuberay" / "overlays" / overlay / "serve-config.yaml"
        files[path] = _with_source(source, service)
    rule = _resource("monitoring.coreos.com/v1", "PrometheusRule", yaml.safe_load(RULES.read_text()))
    files[RULES.with_name("prometheus-rule.yaml")] = _with_source(RULES, rule)
    files |= {FOLDER / f"{name}.json": render(name, dashboard) for name, dashboard in DASHBOARDS.items()}
    return files


def _resource(version: str, kind: str, spec: dict) -> dict:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "sdavs"}, "spec": spec}


def _with_source(source: Path, resource: dict) -> str:
    head = f"# Generated from {source.relative_to(ROOT)}; edit that, then `make infra`.\n"
    return head + yaml.dump(resource, Dumper=_Dumper, sort_keys=False, width=110)


if __name__ == "__main__":
    sys.exit(main())
