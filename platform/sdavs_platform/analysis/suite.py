"""The analyses by name, and the one call that runs, writes and logs them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sdavs_model.analysis.taps import damf_modules, snrp_modules
from sdavs_platform.analysis import attention, consistency, listening, maps, response
from sdavs_platform.analysis import noise_robustness as noise
from sdavs_platform.analysis.inputs import Study, open_study, open_subject
from sdavs_platform.analysis.result import Finding, log_finding, write_finding
from sdavs_platform.config.paths import state_folder
from sdavs_platform.tracking.client import tracking_uri

NAMES = ("noise", "consistency", "maps", "attention", "response", "listening")
NEEDS = {
    "maps": snrp_modules,
    "response": snrp_modules,
    "consistency": damf_modules,
    "attention": damf_modules,
}
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asked for; one field a flag of `jobs/analyse.py`."""

    names: tuple[str, ...]
    model: str = "models:/sdavs@champion"
    without_snrp: str | None = None
    data: str | None = None
    split: str | None = None
    limit: int | None = None
    level: int = 1
    train_noise: str | None = None
    device: str = "cpu"
    seed: int = 0
    out: str | None = None
    tracking_uri: str | None = None
    log: bool = True


def analyse(request: Request, *, say: Say) -> tuple[dict[str, Finding], dict[str, str]]:
    """Run the analyses one after the other; each is on disk and in MLflow before the next begins.

    Of several, one that the model cannot answer for (no SNRP, no DAMF) is left out.

    Returns:
        The findings by name, and for each analysis left out the reason.

    Raises:
        ValueError: an unknown model, data set, split, level or sound file; a single analysis that the model
            cannot answer for.
    """
    study = _study(request, request.model, say)
    if not 1 <= request.level <= len(study.subject.loaded.model.levels):
        raise ValueError(f"--level: {request.level} is not allowed; allowed: 1 (the largest map) to 4")
    findings: dict[str, Finding] = {}
    left_out: dict[str, str] = {}
    for name in request.names:
        lacking = _lacking(name, study)
        if lacking and len(request.names) == 1:
            raise ValueError(f"{request.model}: {lacking}")
        if lacking:
            left_out[name] = lacking
            say(f"{name}: left out, {lacking}")
            continue
        findings[name] = _run(name, study, request, say)
        _keep(findings[name], study, request, say)
    return findings, left_out


def _lacking(name: str, study: Study) -> str:
    """What an analysis looks into and the model does not have; "" if it has all."""
    try:
        if name in NEEDS:
            NEEDS[name](study.model)
    except ValueError as error:
        return str(error)
    return ""


def _run(name: str, study: Study, request: Request, say: Say) -> Finding:
    match name:
        case "noise":
            other = _study(request, request.without_snrp, say) if request.without_snrp else None
            return noise.run(study, without_snrp=other, train_noise=request.train_noise)
        case "consistency":
            return consistency.run(study)
        case "maps":
            return maps.run(study, level=request.level)
        case "attention":
            return attention.run(study, level=request.level)
        case "response":
            return response.run(study, level=request.level)
        case "listening":
            return listening.run(study)
    raise AssertionError(f"no analysis {name!r}")


def _study(request: Request, model: str, say: Say) -> Study:
    return open_study(
        open_subject(model, device=request.device, uri=request.tracking_uri),
        root=request.data,
        split=request.split,
        limit=request.limit,
        seed=request.seed,
        device=request.device,
        say=say,
    )


def _keep(finding: Finding, study: Study, request: Request, say: Say) -> None:
    parent = Path(request.out) if request.out else state_folder() / "analysis"
    folder = write_finding(finding, parent / f"{finding.name}-{study.subject.name}")
    say(f"{finding.name}: written to {folder}")
    if request.log and study.subject.run_id:
        uri = tracking_uri(request.tracking_uri)
        log_finding(finding, folder, run_id=study.subject.run_id, uri=uri)
        say(f"{finding.name}: logged to run {study.subject.run_id} as analysis/{finding.name}/")
    elif request.log:
        say(f"{finding.name}: not logged, a folder belongs to no MLflow run")
