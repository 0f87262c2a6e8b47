"""The names of all metrics in the dashboards and alert rules."""

import json
import re
from pathlib import Path

import yaml

MONITORING = Path(__file__).resolve().parents[1] / "monitoring"
_WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}
_CLAUSE = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")


def metrics_in(expression: str) -> set[str]:
    """Names of the metrics in a PromQL expression; Grafana's variables and the rules' own records are none."""
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"|'[^']*'", " ", expression)
    text = _CLAUSE.sub(" ", text)
    if label_values := re.match(r"label_values\((\w+),", text):
        return {label_values[1]}
    names = re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?!\s*\()(?![\w:])", text)
    return {name for name in names if name not in _WORDS and ":" not in name}


def rules() -> list[dict]:
    """All rules, of all groups."""
    return [
        rule
        for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
        for rule in group["rules"]
    ]


def dashboards() -> dict[str, dict]:
    """File name -> dashboard."""
    return {path.name: json.loads(path.read_text()) for path in sorted(MONITORING.glob("dashboards/*.json"))}


def named_metrics() -> dict[str, set[str]]:
    """Metric -> which dashboards and rules name it."""
    found: dict[str, set[str]] = {}
    for rule in rules():
        for name in metrics_in(rule["expr"]):
            found.setdefault(name, set()).add(rule.get("alert") or rule["record"])
    for file, page in dashboards().items():
        queries = [target["expr"] for panel in page["panels"] for target in panel["targets"]]
        queries += [
            variable["definition"] for variable in page["templating"]["list"] if "definition" in variable
        ]
        for query in queries:
            for name in metrics_in(query):
                found.setdefault(name, set()).add(file)
    return found
