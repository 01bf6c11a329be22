"""MovieLens 100k: the flat completion (weighted trace norm) against the plain nuclear norm, held-out error on 5 splits.

    python examples/movielens.py [--out FOLDER] [--splits 5]

Each split holds 20% of the ratings out to test. The penalty of each norm, as a fraction of its largest, is chosen once, on
a tenth of the training ratings of the first split, by a path from large to small; with it the training ratings of every
split are fitted. `half` is the exponent 1/2 between the two, whose
weights are the fourth roots of the frequencies [Salakhutdinov & Srebro 2010]. Baselines: the mean rating; means of users
and films (shrunk, chosen the same way).
"""

import argparse
import json
import pathlib
import time

import numpy as np

from flatmin.datasets import load_ratings
from flatmin.solvers.large import complete, large_completion, largest_penalty

NORMS = {"plain": 0.0, "half": 0.5, "flat": 1.0}
RATIO, TOLERANCE = 0.7, 1e-2


def rmse(predicted, actual):
    return float(np.sqrt(np.mean((predicted - actual) ** 2)))


def problem_of(ratings, index, offset, weighting):
    return large_completion(
        ratings.rows[index],
        ratings.cols[index],
        ratings.values[index] - offset,
        ratings.shape,
        penalty=1.0,
        weighting=weighting,
        reduce=True,
    )


def held_out_error(ratings, solution, offset, index):
    return rmse(offset + solution.predict(ratings.rows[index], ratings.cols[index]), ratings.values[index])


def choose_penalty(ratings, kept, weighting, rng):
    """The penalty with the least error on a tenth of the training ratings, as a fraction of the largest."""
    order = rng.permutation(kept)
    held, fitted = order[: len(kept) // 10], order[len(kept) // 10 :]
    offset = ratings.values[fitted].mean()
    problem = problem_of(ratings, fitted, offset, weighting)
    top = largest_penalty(problem)
    fraction, solution, path = 0.5, None, []
    while len(path) < 3 or path[-1][1] < min(error for _, error in path[:-1]):
        solution = complete(
            problem.with_penalty(fraction * top), tolerance=TOLERANCE, start=solution, max_sweeps=300, throw=False
        )
        path.append((fraction, held_out_error(ratings, solution, offset, held)))
        fraction *= RATIO
    return min(path, key=lambda trial: trial[1])[0]


def means(ratings, kept, test):
    """Users' and films' means, shrunk to the mean of all by 5 ratings."""
    rows, cols, values = ratings.rows[kept], ratings.cols[kept], ratings.values[kept]
    offset, film, user = values.mean(), np.zeros(ratings.shape[1]), np.zeros(ratings.shape[0])
    for _ in range(10):
        left = values - offset - user[rows]
        film = np.bincount(cols, left, ratings.shape[1]) / (5 + np.bincount(cols, minlength=ratings.shape[1]))
        left = values - offset - film[cols]
        user = np.bincount(rows, left, ratings.shape[0]) / (5 + np.bincount(rows, minlength=ratings.shape[0]))
    return rmse(offset + user[ratings.rows[test]] + film[ratings.cols[test]], ratings.values[test])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("gallery"))
    parser.add_argument("--splits", type=int, default=5)
    arguments = parser.parse_args()
    ratings, found, fractions = load_ratings(), [], {}
    for split in range(arguments.splits):
        rng = np.random.default_rng(split)
        order = rng.permutation(len(ratings.values))
        test, kept = order[: len(order) // 5], order[len(order) // 5 :]
        offset = ratings.values[kept].mean()
        line = {"mean": rmse(offset, ratings.values[test]), "user and film means": means(ratings, kept, test)}
        for name, weighting in NORMS.items():
            began = time.perf_counter()
            if split == 0:
                fractions[name] = choose_penalty(ratings, kept, weighting, np.random.default_rng([split, 1]))
            problem = problem_of(ratings, kept, offset, weighting)
            penalty = fractions[name] * largest_penalty(problem)
            solution = complete(problem.with_penalty(penalty), tolerance=1e-3, max_sweeps=1000, throw=False)
            line[name] = held_out_error(ratings, solution, offset, test)
            line[f"{name} details"] = {
                "fraction": fractions[name],
                "rank": solution.rank,
                "gap": solution.gap,
                "seconds": time.perf_counter() - began,
            }
        found.append(line)
        print(json.dumps(line), flush=True)
    names = ["mean", "user and film means", *NORMS]
    errors = {name: np.array([line[name] for line in found]) for name in names}
    for name, values in errors.items():
        print(f"{name:20s} RMSE {values.mean():.4f} +- {values.std(ddof=1) if len(values) > 1 else 0:.4f}")
    better = errors["plain"] - errors["flat"]
    print(
        f"flat better than plain by {better.mean():.4f} on average, in {int((better > 0).sum())} of {len(better)} splits"
    )
    draw(errors, arguments.out)


def draw(errors, out):
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
    for place, (name, values) in enumerate(errors.items()):
        axis.plot(values, np.full(len(values), place), "o", color="0.15" if name == "flat" else "0.55")
        axis.text(values.max() + 0.004, place, f"{values.mean():.4f}", va="center")
    axis.set_yticks(range(len(errors)), errors)
    axis.invert_yaxis()
    axis.set_xlabel("RMSE on held-out ratings (stars), one dot a split")
    axis.set_title("MovieLens 100k")
    axis.margins(x=0.12)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(out / "movielens.png", dpi=150)
    print(f"Figure: {out / 'movielens.png'}")


if __name__ == "__main__":
    main()
