"""What keeps an engine from starting."""


class StartError(Exception):
    """The engine cannot run here; the text says why and what to do."""


class OccupiedError(StartError):
    """The home has an engine already."""
