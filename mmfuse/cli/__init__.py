"""The ``mmfuse`` command; `mmfuse.cli.app` needs the extra ``cli``."""

__all__: list[str] = []
