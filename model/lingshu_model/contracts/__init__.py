"""The engine's torch-free side: messages, cells, canonical JSON and the checkpoint catalogue."""

from lingshu_model.contracts.canonical import canonical_json, digest_bytes, digest_file, digest_json
from lingshu_model.contracts.catalogue import (
    Catalogue,
    Checkpoint,
    CheckpointError,
    Support,
    Tier,
)
from lingshu_model.contracts.cells import (
    Blob,
    Cells,
    Origin,
    decode_cells,
    encode_cells,
    read_origin,
    row_blocks,
)
from lingshu_model.contracts.messages import (
    MAX_CELLS,
    MAX_SEED,
    PROTOCOL,
    ArmRequest,
    EngineInfo,
    Intervention,
    JobRequest,
    JobView,
    MixturePart,
    QueuedJob,
    Requester,
)

__all__ = [
    "MAX_CELLS",
    "MAX_SEED",
    "PROTOCOL",
    "ArmRequest",
    "Blob",
    "Catalogue",
    "Cells",
    "Checkpoint",
    "CheckpointError",
    "EngineInfo",
    "Intervention",
    "JobRequest",
    "JobView",
    "MixturePart",
    "Origin",
    "QueuedJob",
    "Requester",
    "Support",
    "Tier",
    "canonical_json",
    "decode_cells",
    "digest_bytes",
    "digest_file",
    "digest_json",
    "encode_cells",
    "read_origin",
    "row_blocks",
]
