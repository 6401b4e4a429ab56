"""The command line `lingshu`."""

try:
    from lingshu_tools.cli.commands import main, serve
except KeyboardInterrupt:
    # Ctrl-C while modules are read, before click handles it: no traceback, a shell's status.
    raise SystemExit(130) from None

__all__ = ["main", "serve"]
