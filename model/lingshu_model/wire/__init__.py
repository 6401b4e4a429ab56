"""The engine's torch-free side: messages, cells, canonical JSON and the checkpoint catalogue."""

from lingshu_model.wire.canonical import canonical_json, digest_bytes, digest_file, digest_json
from lingshu_model.wire.catalogue import (
    Catalogue,
    Checkpoint,
    CheckpointError,
    Support,
    Tier,
)
from lingshu_model.wire.cells import Blob, Cells, decode_cells, encode_cells, row_blocks
from lingshu_model.wire.messages import (
    MAX_CELLS,
    MAX_SEED,
    ArmRequest,
    EngineInfo,
    Intervention,
    JobView,
    QueuedJob,
    Requester,
)

__all__ = [
    "MAX_CELLS",
    "MAX_SEED",
    "ArmRequest",
    "Blob",
    "Catalogue",
    "Cells",
    "Checkpoint",
    "CheckpointError",
    "EngineInfo",
    "Intervention",
    "JobView",
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
    "row_blocks",
]
