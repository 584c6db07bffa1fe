"""``mmfuse cache``: list, empty and check the embeddings on disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from mmfuse._require import require
from mmfuse.cli.errors import one_line_errors

if TYPE_CHECKING:
    import typer
else:
    typer = require("typer", extra="cli", caller="mmfuse")

__all__ = ["app"]

app = typer.Typer(
    help="List, empty or check the embeddings on disk.", no_args_is_help=True, rich_markup_mode=None
)

FolderOption = Annotated[
    Path | None, typer.Option(help="Cache folder; by default MMFUSE_CACHE or the user's own.")
]


@app.command()
@one_line_errors
def ls(folder: FolderOption = None) -> None:
    """List the cache files, last used first."""
    from mmfuse.cache import cache_folder, list_caches

    files = list_caches(folder)
    typer.echo(f"cache folder: {folder or cache_folder()}")
    for file in files:
        used = time.strftime("%Y-%m-%d", time.localtime(file.last_used))
        state = f"unreadable: {file.problem}" if file.problem else f"{file.rows} embeddings"
        typer.echo(f"  {_megabytes(file.size)}  last used {used}  {state}  {file.path.name}")
    total = sum(file.size for file in files)
    typer.echo(f"{_count(len(files))}, {_megabytes(total).strip()}")


@app.command()
@one_line_errors
def gc(
    days: Annotated[
        float | None, typer.Option(min=0, help="Remove what was last used longer ago.")
    ] = None,
    max_mb: Annotated[
        float | None, typer.Option(min=0, help="Remove what was used longest ago above this size.")
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Remove everything.")] = False,
    folder: FolderOption = None,
) -> None:
    """Remove cache files that are old, or too many."""
    from mmfuse.cache import gc as remove

    if days is None and max_mb is None and not all:
        raise ValueError("mmfuse cache gc: say what to remove with --days, --max-mb or --all.")
    limit = None if max_mb is None else int(max_mb * 1e6)
    gone = remove(folder, max_age_days=days, max_bytes=limit, everything=all)
    freed = _megabytes(sum(file.size for file in gone)).strip()
    typer.echo(f"removed {_count(len(gone))}, {freed}")


@app.command()
@one_line_errors
def verify(folder: FolderOption = None) -> None:
    """Remove damaged embeddings; exit with 1 if any."""
    from mmfuse.cache import verify as check

    checks = check(folder)
    for one in checks:
        if one.problem:
            typer.echo(f"{one.path.name}: cannot be read ({one.problem}); remove it by hand")
        elif one.removed:
            typer.echo(f"{one.path.name}: {one.removed} damaged embeddings removed")
    sound = sum(one.sound for one in checks)
    typer.echo(f"{_count(len(checks))}, {sound} sound embeddings")
    if any(one.problem or one.removed for one in checks):
        raise typer.Exit(1)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:8.1f} MB"


def _count(n: int) -> str:
    return f"{n} file" if n == 1 else f"{n} files"
