"""Send a video with sound to the endpoint; write its masks and overlays.

    python jobs/segment.py clip.mp4
    python jobs/segment.py clip.mp4 --endpoint http://127.0.0.1:8001 --out masks

Writes, for each second, mask-0.png (0 and 255) and overlay-0.png; overlay.mp4 with the sound; answer.json. The clip is
sent once, as a job, or twice if the endpoint has no jobs. If the endpoint requires an API key, set SDAVS_API_KEY (flags
would be visible to every user of the machine).
"""

import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from _flags import job_parser
from _job import run_job

if TYPE_CHECKING:
    from sdavs_serve.client import Client
    from sdavs_serve.schema import SegmentAnswer


def main() -> None:
    parser = job_parser(__doc__)
    parser.add_argument("video", type=Path, help="mp4, mov, webm, mkv, avi or ts with a sound track")
    parser.add_argument(
        "--endpoint", default="http://127.0.0.1:8000", help="the endpoint's address (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(".sdavs/demo/answer"),
        help="folder to write to (default: %(default)s)",
    )
    parser.add_argument("--fps", type=float, help="masks per second (default: the endpoint's)")
    parser.add_argument("--model-version", type=int, help="require this version (default: the served one)")
    flags = parser.parse_args()
    if not flags.video.is_file():
        raise ValueError(f"there is no file {flags.video}")
    import httpx
    from sdavs_serve.client import Client, EndpointError

    flags.out.mkdir(parents=True, exist_ok=True)
    key, film = os.environ.get("SDAVS_API_KEY"), flags.out / "overlay.mp4"

    def client(version: int | None) -> Client:
        return Client(flags.endpoint, api_key=key, version=version)

    try:
        archive = flags.out / "overlays.zip"
        with client(flags.model_version) as first:
            is_whole = _segment_once(first, flags.video, archive, film, fps=flags.fps)
            if not is_whole:
                first.save_masks(flags.video, archive, fps=flags.fps, overlay=True)
        answer = _unpack(archive, flags.out)
        if not is_whole:
            # The video shows the same version as the pictures, also if a rollout ends in between.
            with client(int(answer.model.version)) as second:
                second.save_overlay_video(flags.video, film, fps=flags.fps)
    except EndpointError as error:
        raise RuntimeError(str(error)) from error
    except httpx.TransportError as error:
        raise RuntimeError(f"no response from {flags.endpoint}: {error}") from error
    (flags.out / "answer.json").write_text(answer.model_dump_json(indent=2))
    model = answer.model
    print(f"{model.name} version {model.version} answered in {answer.timings_ms.total:.0f} ms")
    for frame in answer.frames:
        print(f"  {frame.time_s:5.1f} s  mask covers {frame.area:5.1%}  probability inside {frame.score:.2f}")
    print(f"  pictures and masks: {flags.out}")


def _segment_once(client: "Client", video: Path, archive: Path, film: Path, *, fps: float | None) -> bool:
    """Write the overlays and the film, of one upload and one inference; False if the endpoint has no jobs.

    Raises:
        EndpointError: the endpoint refused, or the job failed.
    """
    from sdavs_serve.client import EndpointError

    kinds = {"application/zip": archive, "video/mp4": film}
    try:
        job = client.submit(video, accept=list(kinds), fps=fps, overlay=True)
    except EndpointError as error:
        if error.problem.status == 404:  # several ingress replicas and no `serve.jobs.uri`
            return False
        raise
    try:
        client.wait(job.id)
        for kind, path in kinds.items():
            client.save_result(job.id, path, accept=kind)
    finally:
        client.cancel(job.id)  # removes the results, too
    return True


def _unpack(archive: Path, folder: Path) -> "SegmentAnswer":
    """Extract overlays and masks from the endpoint's zip; returns their metadata."""
    from sdavs_serve.client import save_mask
    from sdavs_serve.schema import SegmentAnswer

    with zipfile.ZipFile(archive) as pictures:
        answer = SegmentAnswer.model_validate_json(pictures.read("segmentation.json"))
        for frame in answer.frames:
            overlay = pictures.read(f"{frame.index:05d}.png")
            (folder / f"overlay-{frame.index}.png").write_bytes(overlay)
            save_mask(frame, folder / f"mask-{frame.index}.png")
    archive.unlink()
    return answer


if __name__ == "__main__":
    run_job(main, expected=(RuntimeError,))
