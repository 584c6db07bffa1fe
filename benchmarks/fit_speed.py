"""Fit times of linear fusion against scikit-learn, side by side in one run, and peak memory.

Run from the root of the repository on an idle machine::

    python benchmarks/fit_speed.py                  # writes docs/benchmarks.md
    python benchmarks/fit_speed.py --rows 20000 --dry-run
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
from page import write_section

VIEWS, WIDTH, CLASSES, TEST_ROWS = 3, 256, 10, 20_000


def make(n: int, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Correlated float32 features: a tenth as many factors as features, in all views, and noise."""
    rng = np.random.default_rng(seed)
    width = VIEWS * WIDTH
    y = rng.integers(0, CLASSES, n)
    factors = rng.standard_normal((n, width // 8), dtype=np.float32)
    factors += 0.35 * rng.standard_normal((CLASSES, width // 8)).astype(np.float32)[y]
    loading = rng.standard_normal((width // 8, width)).astype(np.float32)
    loading /= np.float32(np.sqrt(width // 8))
    X = factors @ loading
    X += 0.5 * rng.standard_normal((n, width), dtype=np.float32)
    X *= np.exp(rng.normal(size=width)).astype(np.float32)
    X += rng.normal(size=width).astype(np.float32)
    views = {
        f"view{v}": np.ascontiguousarray(X[:, v * WIDTH : (v + 1) * WIDTH]) for v in range(VIEWS)
    }
    return views, y


def take(X: dict[str, np.ndarray], rows: slice) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(view[rows]) for name, view in X.items()}


def use_threads(count: int) -> None:
    """Limit every pool of threads; libraries must be there before they can be limited."""
    import sklearn.linear_model  # noqa: F401
    import sklearn.preprocessing  # noqa: F401
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(count)
    threadpool_limits(limits=count)


class Sklearn:
    """StandardScaler and LogisticRegression with its defaults, on the joined features."""

    def fit(self, X: dict[str, np.ndarray], y: np.ndarray) -> Sklearn:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self.model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        self.model.fit(self.joined(X), y)
        return self

    @staticmethod
    def joined(X: dict[str, np.ndarray]) -> np.ndarray:
        return X if isinstance(X, np.ndarray) else np.hstack(list(X.values()))

    def predict_proba(self, X: dict[str, np.ndarray]) -> np.ndarray:
        return self.model.predict_proba(self.joined(X))


def one_strength():
    from mmfuse import FusionClassifier
    from mmfuse.heads import EarlyFusion

    return FusionClassifier(EarlyFusion(C=1.0), calibration=None, random_state=0)


def without_dropout():
    from mmfuse import FusionClassifier
    from mmfuse.heads import EarlyFusion

    head = EarlyFusion(C=1.0, modality_dropout=0.0)
    return FusionClassifier(head, calibration=None, random_state=0)


def chosen_strength():
    from mmfuse import FusionClassifier
    from mmfuse.heads import EarlyFusion

    return FusionClassifier(EarlyFusion(), random_state=0)


class Ablation:
    """The full ablation: 7 subsets, 5 folds, 8 strengths."""

    def fit(self, X: dict[str, np.ndarray], y: np.ndarray) -> Ablation:
        from mmfuse import ablate

        self.found = ablate(X, y, random_state=0)
        return self

    def predict_proba(self, X: dict[str, np.ndarray]) -> None:
        return None


METHODS: dict[str, Callable] = {
    "StandardScaler + LogisticRegression": Sklearn,
    "mmfuse EarlyFusion(C=1.0), calibration=None": one_strength,
    "mmfuse EarlyFusion(C=1.0, modality_dropout=0), calibration=None": without_dropout,
    'mmfuse EarlyFusion(C="cv"): strengths, folds, calibration, refit': chosen_strength,
    "mmfuse ablate: 7 subsets x 5 folds x 8 strengths": Ablation,
}


def log_loss(proba: np.ndarray | None, y: np.ndarray) -> float:
    if proba is None:
        return float("nan")
    return float(-np.log(np.maximum(proba[np.arange(len(y)), y], 1e-12)).mean())


def timed(method: Callable, X, y, test, y_test) -> tuple[float, float, float]:
    """Wall and CPU seconds of a fit, and the log loss on test rows."""
    if method is Sklearn:
        X = Sklearn.joined(X)  # joining is not counted
    model = method()
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    model.fit(X, y)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return wall, cpu, log_loss(model.predict_proba(test), y_test)


def table(rows: int, threads: int, repeats: int, heavy_repeats: int) -> list[str]:
    """Every method in turn, again and again, so that a slow minute of the machine hits all."""
    use_threads(threads)
    X, y = make(rows + TEST_ROWS)
    test, y_test = take(X, slice(rows, None)), y[rows:]
    X, y = take(X, slice(0, rows)), y[:rows]
    one_strength().fit(take(X, slice(0, 2000)), y[:2000])  # imports and first calls
    found: dict[str, list] = {name: [] for name in METHODS}
    for turn in range(repeats):
        for number, (name, method) in enumerate(METHODS.items()):
            if number < 3 or turn < heavy_repeats:
                found[name].append(timed(method, X, y, test, y_test))
                print(threads, "threads", name, found[name][-1], flush=True)
    base = np.median([wall for wall, _, _ in found[next(iter(METHODS))]])
    lines = [f"{threads} thread{'s' if threads > 1 else ''}:", ""]
    lines += ["| fit | median s | CPU s | in scikit-learn fits | log loss |", "| --- " * 5 + "|"]
    for name, values in found.items():
        if not values:
            continue
        wall, cpu, loss = np.median(values, axis=0)
        shown = "" if np.isnan(loss) else f"{loss:.4f}"
        lines.append(f"| {name} | {wall:.2f} | {cpu:.2f} | {wall / base:.2f} | {shown} |")
    return [*lines, ""]


def slope(sizes: list[int]) -> list[str]:
    """Time against rows, on one thread."""
    use_threads(1)
    seconds = []
    for n in sizes:
        X, y = make(n)
        runs = []
        for _ in range(3 if n < 300_000 else 1):
            start = time.perf_counter()
            one_strength().fit(X, y)
            runs.append(time.perf_counter() - start)
        seconds.append(float(np.median(runs)))
        print(n, seconds[-1], flush=True)
        del X, y
        gc.collect()
    steep = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    pairs = ", ".join(f"{n:,} rows {s:.2f} s" for n, s in zip(sizes, seconds, strict=True))
    return [
        f"Time over rows, one thread, `EarlyFusion(C=1.0)`: {pairs}; log-log slope {steep:.2f}.",
        "",
    ]


def peak(rows: int) -> list[str]:
    """Peak resident memory of a fit beyond what was there before the data, in inputs (Linux)."""
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import fit_speed\n"
        "import gc; import numpy as np\n"
        "fit_speed.use_threads(1); fit_speed.one_strength().fit(*fit_speed.make(3000))\n"
        "def read(key):\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return int(next(x for x in lines if x.startswith(key)).split()[1]) / 1024\n"
        "open('/proc/self/clear_refs', 'w').write('5')  # forget earlier peaks\n"
        "before = read('VmRSS'); rng = np.random.default_rng(0)\n"
        f"n = {rows}; y = rng.integers(0, 10, n)\n"
        "X = {f'view{v}': np.empty((n, 256), np.float32) for v in range(3)}\n"
        "for v in X.values():\n"
        "    for i in range(0, n, 4096):\n"
        "        v[i:i+4096] = rng.standard_normal(v[i:i+4096].shape, dtype=np.float32)\n"
        "        v[i:i+4096, :10] += 0.5 * np.eye(10, dtype=np.float32)[y[i:i+4096]]\n"
        "size = sum(v.nbytes for v in X.values()) / 2**20\n"
        "fit_speed.one_strength().fit(X, y); print((read('VmHWM') - before) / size, size)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ratio, size = map(float, done.stdout.split())
    return [
        f"Peak memory of `EarlyFusion(C=1.0)` at {rows:,} rows: {ratio:.2f} times the input "
        f"({size:.0f} MiB), the input itself included.",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--heavy-repeats", type=int, default=1, help="of cv and the ablation")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--dry-run", action="store_true", help="print only")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    lines = [
        "## Fit times",
        "",
        f"{arguments.rows:,} rows, {VIEWS} views of {WIDTH} correlated float32 features, {CLASSES} "
        f"classes; methods in turn, medians of {arguments.repeats} runs ({arguments.heavy_repeats} "
        "for the last two), log loss on other rows. Joining the views is not counted for "
        "scikit-learn.",
        "",
    ]
    for threads in arguments.threads:
        lines += table(arguments.rows, threads, arguments.repeats, arguments.heavy_repeats)
    lines += slope(arguments.sizes)
    lines += peak(arguments.rows)
    lines.append("Made by `benchmarks/fit_speed.py`.")
    print("\n".join(lines))
    if not arguments.dry_run:
        write_section("fit speed", "\n".join(lines))


if __name__ == "__main__":
    main()
