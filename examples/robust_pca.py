"""Robust PCA of real pictures: the car around a man who talks, and the light on a scanned page.

    python examples/robust_pca.py [--out FOLDER]

The clip has one frame a column, the page its pixels. `FlatRobustPCA` splits them and certifies the split. The usual
weight of the errors, `1 / sqrt(max(d1, d2))`, is meant for few errors; here a third of the picture moves, or is ink in
straight lines, which is partly low-rank itself: a fraction of that weight (`SHARE`, chosen by eye) separates better.
"""

import argparse
import pathlib
import time

import numpy as np

from flatmin.datasets import load_packaged
from flatmin.estimators import FlatRobustPCA

FRAMES, TILE = (0, 33), (72, 88)
SHARE = {"carphone": 0.4, "page": 0.28}


def split(matrix, share, tolerance=1e-3):
    penalty = share / np.sqrt(max(matrix.shape))
    began = time.perf_counter()
    fitted = FlatRobustPCA(penalty, tolerance=tolerance).fit(matrix)
    proof = fitted.certificate_
    print(
        f"{matrix.shape[0]} x {matrix.shape[1]}: rank {fitted.rank_}, gap {proof.gap:.1e} ({proof.outcome.name}), "
        f"{fitted.n_iter_} iterations, {time.perf_counter() - began:.1f} s, errors above 0.05 in "
        f"{np.mean(np.abs(fitted.outliers_) > 0.05):.1%} of the entries",
        flush=True,
    )
    return fitted.low_rank_, fitted.outliers_


def save(path, columns, titles):
    import matplotlib.pyplot as plt

    rows = len(columns[0])
    height, width = columns[0][0].shape
    size = (3.2 * len(columns), 3.2 * rows * height / width + 0.35)
    figure, axes = plt.subplots(rows, len(columns), figsize=size, squeeze=False, layout="constrained")
    for axis_column, column, title in zip(axes.T, columns, titles, strict=True):
        axis_column[0].set_title(title, fontsize=10)
        for axis, image in zip(axis_column, column, strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.axis("off")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"Figure: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("gallery"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    frames = load_packaged("carphone")
    background, moving = split(frames.T, SHARE["carphone"])
    parts = (frames, background.T, np.abs(moving.T))
    columns = [[part[i].reshape(TILE) for i in FRAMES] for part in parts]
    save(out / "carphone.png", columns, ["frame", "low rank: the car", "errors: what moves"])

    page = load_packaged("page")
    light, ink = split(page, SHARE["page"])
    save(
        out / "page.png", [[page], [light], [1 - np.abs(ink)]], ["page", "low rank: the light", "1 - |errors|: the ink"]
    )


if __name__ == "__main__":
    main()
