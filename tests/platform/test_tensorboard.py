"""TensorBoard files of a training: in its folder of the storage, complete, and joined over restarts."""

from pathlib import Path

from sdavs_platform.training.telemetry.tensorboard import TensorBoard
from tensorboardX.proto.event_pb2 import Event


def events(folder: Path) -> list[Event]:
    """Of all files, in the order of their records: a length of 8 bytes, 4 of checksum, the event, 4 of checksum."""
    found = []
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            found.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return found


def test_points_arrive_in_the_storage_during_the_training_and_a_resume_drops_what_it_repeats(tmp_path: Path):
    folder = tmp_path / "tensorboard"
    first = TensorBoard(str(tmp_path), step=0, upload_s=0.0)
    first.add((1, {"train/loss": 2.0}))
    first.add((2, {"train/loss": 1.0, "val/miou": 0.5}))
    values = {(e.step, v.tag): v.simple_value for e in events(folder) for v in e.summary.value}
    assert values == {(1, "train/loss"): 2.0, (2, "train/loss"): 1.0, (2, "val/miou"): 0.5}
    first.close()
    second = TensorBoard(str(tmp_path), step=1)
    second.add((2, {"train/loss": 0.5}))
    second.close()
    assert len(list(folder.iterdir())) == 2
    starts = [e.step for e in events(folder) if e.session_log.status]
    assert starts == [2]
