"""MovieLens 100k: the flat completion (weighted trace norm) against the plain nuclear norm, held-out error on 5 splits.

    python examples/movielens.py [--out FOLDER] [--splits 5]

Each split holds 20% of the ratings out to test. The penalty of each norm, as a fraction of its largest, is chosen once,
on a tenth of the training ratings of the first split, by a path from large to small; with it the training ratings of
every split are fitted, less their mean. `half` is the exponent 1/2 between the two norms, whose weights are the fourth
roots of the frequencies [Salakhutdinov & Srebro 2010]. Baselines: the mean rating, and shrunk means of users and films;
`... on means` fits what these leave.
"""

import argparse
import pathlib
import time

import numpy as np

from flatmin.datasets import load_ratings
from flatmin.solvers.large import complete, large_completion, largest_penalty

RATIO, TOLERANCE = 0.7, 1e-2


def rmse(predicted, actual):
    return float(np.sqrt(np.mean((predicted - actual) ** 2)))


def problem_of(ratings, index, offsets, weighting):
    return large_completion(
        ratings.rows[index],
        ratings.cols[index],
        ratings.values[index] - offsets[index],
        ratings.shape,
        penalty=1.0,
        weighting=weighting,
        reduce=True,
    )


def held_out_error(ratings, solution, offsets, index):
    return rmse(offsets[index] + solution.predict(ratings.rows[index], ratings.cols[index]), ratings.values[index])


def choose_penalty(ratings, kept, weighting, offsets_of, rng):
    """The penalty with the least error on a tenth of the training ratings, as a fraction of the largest."""
    order = rng.permutation(kept)
    held, fitted = order[: len(kept) // 10], order[len(kept) // 10 :]
    offsets = offsets_of(ratings, fitted)
    problem = problem_of(ratings, fitted, offsets, weighting)
    top = largest_penalty(problem)
    fraction, solution, path = 0.7, None, []
    while len(path) < 3 or path[-1][1] < min(error for _, error in path[:-1]):
        solution = complete(
            problem.with_penalty(fraction * top), tolerance=TOLERANCE, start=solution, max_sweeps=300, throw=False
        )
        path.append((fraction, held_out_error(ratings, solution, offsets, held)))
        fraction *= RATIO
    return min(path, key=lambda trial: trial[1])[0]


def mean(ratings, kept):
    return np.full(len(ratings.values), ratings.values[kept].mean())


def means(ratings, kept):
    """Users' and films' means, shrunk to the mean of all by 5 ratings, for every rating of the table."""
    rows, cols, values = ratings.rows[kept], ratings.cols[kept], ratings.values[kept]
    offset, film, user = values.mean(), np.zeros(ratings.shape[1]), np.zeros(ratings.shape[0])
    for _ in range(10):
        left = values - offset - user[rows]
        film = np.bincount(cols, left, ratings.shape[1]) / (5 + np.bincount(cols, minlength=ratings.shape[1]))
        left = values - offset - film[cols]
        user = np.bincount(rows, left, ratings.shape[0]) / (5 + np.bincount(rows, minlength=ratings.shape[0]))
    return offset + user[ratings.rows] + film[ratings.cols]


MODELS = {
    "plain": (0.0, mean),
    "half": (0.5, mean),
    "flat": (1.0, mean),
    "plain on means": (0.0, means),
    "flat on means": (1.0, means),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("gallery"))
    parser.add_argument("--splits", type=int, default=5)
    arguments = parser.parse_args()
    ratings, found, fractions = load_ratings(), [], {}
    for split in range(arguments.splits):
        order = np.random.default_rng(split).permutation(len(ratings.values))
        test, kept = order[: len(order) // 5], order[len(order) // 5 :]
        line = {
            "mean": rmse(mean(ratings, kept)[test], ratings.values[test]),
            "means of users, films": rmse(means(ratings, kept)[test], ratings.values[test]),
        }
        for name, (weighting, offsets_of) in MODELS.items():
            if split == 0:
                rng = np.random.default_rng([split, 1])
                fractions[name] = choose_penalty(ratings, kept, weighting, offsets_of, rng)
            began, offsets = time.perf_counter(), offsets_of(ratings, kept)
            problem = problem_of(ratings, kept, offsets, weighting)
            penalty = fractions[name] * largest_penalty(problem)
            solution = complete(problem.with_penalty(penalty), tolerance=1e-3, max_sweeps=1000, throw=False)
            line[name] = held_out_error(ratings, solution, offsets, test)
            seconds = time.perf_counter() - began
            print(
                f"split {split}, {name}: fraction {fractions[name]:.3f}, rank {solution.rank}, gap {solution.gap:.0e}, "
                f"RMSE {line[name]:.4f}, {seconds:.1f} s",
                flush=True,
            )
        found.append(line)
    errors = {name: np.array([line[name] for line in found]) for name in found[0]}
    for name, values in errors.items():
        print(f"{name:24s} RMSE {values.mean():.4f} +- {values.std(ddof=1) if len(values) > 1 else 0:.4f}")
    for one, two in (("plain", "flat"), ("plain on means", "flat on means")):
        better = errors[one] - errors[two]
        print(f"{two} better than {one} by {better.mean():.4f}, in {int((better > 0).sum())} of {len(better)} splits")
    draw(errors, arguments.out)


def draw(errors, out):
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
    for place, (name, values) in enumerate(errors.items()):
        axis.plot(values, np.full(len(values), place), "o", color="0.15" if name.startswith("flat") else "0.6")
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
