"""Where checkpoints lie: a local folder or any URI that pyarrow understands, such as s3://bucket/folder."""

from pyarrow import fs

# Ray Train's list of the checkpoints of a run; without it nothing can be resumed.
CHECKPOINT_LIST = "checkpoint_manager_snapshot.json"


def has_checkpoints(uri: str, name: str) -> bool:
    """Whether a training of this name has left checkpoints at `uri`.

    Raises:
        ValueError: the storage cannot be reached.
    """
    try:
        system, path = fs.FileSystem.from_uri(uri)
        found = system.get_file_info(f"{path}/{name}/{CHECKPOINT_LIST}")
    except (OSError, ValueError) as error:
        raise ValueError(f"storage.uri: {uri} cannot be reached: {error}") from None
    return found.type == fs.FileType.File
