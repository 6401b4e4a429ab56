"""Proofs of the ledger: writers killed, disks that fail, many writers at once."""
