"""Small files for the tests of reading and recovery."""

import numpy as np


def low_rank(rows, columns, rank, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))


def write_csv(path, matrix, seen, rows=None, columns=None, header="row,column,value"):
    lines = [header]
    for i, j in np.argwhere(seen):
        row = i if rows is None else rows[i]
        column = j if columns is None else columns[j]
        lines.append(f"{row},{column},{float(matrix[i, j])!r}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def completion_csv(folder, rows=16, columns=14, rank=1, fraction=0.6, seed=0, name="ratings.csv"):
    matrix = low_rank(rows, columns, rank, seed)
    seen = np.random.default_rng(seed + 1).random(matrix.shape) < fraction
    seen[:, 0] = seen[0, :] = True
    return write_csv(folder / name, matrix, seen), matrix, seen


def gaussian_npz(folder, shape=(8, 7), rank=1, m=60, seed=0, name="sensing.npz"):
    rng = np.random.default_rng(seed)
    matrix = low_rank(*shape, rank, seed)
    A = rng.normal(size=(m, *shape))
    np.savez(folder / name, A=A, b=np.einsum("iab,ab->i", A, matrix), truth=matrix)
    return folder / name, matrix
