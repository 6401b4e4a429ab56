"""The hash contract's canonical JSON, the one the wire uses."""

from lingshu_model.contracts.canonical import canonical_json, digest_bytes, digest_file, digest_json

__all__ = ["canonical_json", "digest_bytes", "digest_file", "digest_json"]
