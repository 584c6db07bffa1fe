"""PDF of a page, printed by a Chromium that the system has."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from os import PathLike
from pathlib import Path

__all__ = ["BROWSERS", "browser_arguments", "find_browser", "print_pdf"]

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "msedge",
    "chrome-headless-shell",
)
"""Commands that are looked for."""

_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
_SECONDS = 120.0


def find_browser() -> str | None:
    """Path of a Chromium: the one named by ``MMFUSE_CHROMIUM``, or the first that is installed.

    Raises
    ------
    FileNotFoundError
        If ``MMFUSE_CHROMIUM`` names none.
    """
    named = os.environ.get("MMFUSE_CHROMIUM")
    if named:
        found = shutil.which(named)
        if found is None:
            raise FileNotFoundError(
                f"MMFUSE_CHROMIUM names {named!r}, which is no program; name the path of Chromium "
                "or Chrome, or unset it."
            )
        return found
    for name in (*BROWSERS, *_PLACES):
        found = shutil.which(name)
        if found is not None:
            return found
    return None


def browser_arguments(browser: str, profile: str | PathLike[str]) -> list[str]:
    """A browser without a window, a profile or anything to fetch."""
    return [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-extensions",
        "--no-first-run",
        f"--user-data-dir={os.fspath(profile)}",
    ]


def print_pdf(page: str, path: str | PathLike[str], *, timeout: float = _SECONDS) -> None:
    """Print a self-contained page to PDF.

    Parameters
    ----------
    page : str
        HTML.
    path : str or path-like
        File to write.
    timeout : float, default=120
        Seconds after which the browser is stopped.

    Raises
    ------
    FileNotFoundError
        If no Chromium is installed; says how to get one.
    RuntimeError
        If it fails or takes too long; nothing is written then.

    Examples
    --------
    >>> from mmfuse.clinical import find_browser, print_pdf
    >>> if find_browser() is not None:  # doctest: +SKIP
    ...     print_pdf("<h1>A sheet</h1>", "sheet.pdf")
    """
    browser = find_browser()
    if browser is None:
        raise FileNotFoundError(
            f"{Path(path).name!r} is printed by Chromium, and none of {', '.join(BROWSERS)} is "
            "installed. Install one (on Debian: apt-get install chromium), name it in "
            "MMFUSE_CHROMIUM, or save .html and print that."
        )
    with tempfile.TemporaryDirectory(prefix="mmfuse-pdf-", ignore_cleanup_errors=True) as folder:
        source, target = Path(folder, "page.html"), Path(folder, "page.pdf")
        source.write_text(page, encoding="utf-8")
        words = browser_arguments(browser, Path(folder, "profile"))
        words += ["--no-pdf-header-footer", f"--print-to-pdf={target}", source.as_uri()]
        try:
            done = subprocess.run(words, capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as exc:
            raise RuntimeError(
                f"{browser} has not printed {Path(path).name!r} within {timeout:g} s; save .html "
                "and print that, or allow more time."
            ) from exc
        if done.returncode or not target.is_file() or target.read_bytes()[:5] != b"%PDF-":
            said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["nothing"]
            raise RuntimeError(
                f"{browser} did not print {Path(path).name!r} (exit status {done.returncode}); it "
                f"said: {said[0]}"
            )
        shutil.copyfile(target, path)
