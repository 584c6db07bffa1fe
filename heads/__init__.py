"""Heads: the interchangeable part that turns blocks into scores."""

if __name__ != "mmfuse.heads":
    raise ImportError("import it as mmfuse.heads, not as a top-level package")
