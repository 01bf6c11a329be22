"""RIP constants: brute force, exactness at full rank, witnesses, monotony, and the laws that transformations obey."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatmin import UsageError
from flatmin.measurements import (
    bilinear_gaussian,
    dense,
    entries,
    gaussian,
    identity,
    materialise,
    rip,
    rip_exact,
    rip_lower_estimate,
    rip_profile,
    scaled,
)

KEY = jax.random.key(3)
OP = gaussian(jax.random.key(8), 30, (3, 4))
PROFILE = rip_profile(OP, KEY)


def energy(op, X):
    return float(np.mean(np.asarray(op.forward(X)) ** 2))


def test_rank_one_in_two_by_two_against_a_grid():
    """All of `u v^T`, on a fine grid of angles, for measurements of which some see little."""
    op = dense(jax.random.normal(jax.random.key(1), (7, 2, 2)) * jnp.array([1.0, 0.2])[None, :, None])
    angles = jnp.linspace(0, jnp.pi, 1441)
    units = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    values = jnp.mean(jnp.einsum("iab,pa,qb->ipq", op.tensor, units, units) ** 2, axis=0)
    found = rip_lower_estimate(op, KEY)
    assert float(found.largest) == pytest.approx(float(values.max()), rel=1e-5)
    assert float(found.largest) >= float(values.max())
    assert float(found.smallest) == pytest.approx(float(values.min()), abs=1e-5)
    assert float(found.delta) == pytest.approx(float(jnp.max(jnp.abs(values - 1))), rel=1e-5)
    assert not found.exact
    assert found.kind == "lower estimate"


def test_full_rank_is_the_spectrum():
    rows = np.asarray(materialise(OP)).reshape(30, 12)
    values = np.linalg.eigvalsh(rows.T @ rows / 30)
    found = PROFILE[-1]
    assert found.exact
    assert found.rank == 3
    assert float(found.largest) == pytest.approx(values[-1], rel=1e-13)
    assert float(found.smallest) == pytest.approx(values[0], rel=1e-12)
    assert float(found.delta) == pytest.approx(max(values[-1] - 1, 1 - values[0]), rel=1e-13)
    by_rank = rip_lower_estimate(OP, KEY, 3)
    assert by_rank.exact
    assert float(by_rank.delta) == float(found.delta)


@pytest.mark.parametrize("rank", [1, 2])
def test_search_finds_what_random_matrices_do_not_beat(rank):
    found = PROFILE[rank - 1]
    rng = np.random.default_rng(0)
    X = np.einsum("kar,krb->kab", rng.normal(size=(20_000, 3, rank)), rng.normal(size=(20_000, rank, 4)))
    X /= np.linalg.norm(X, axis=(1, 2), keepdims=True)
    values = np.mean(np.einsum("iab,kab->ki", np.asarray(OP.tensor), X) ** 2, axis=1)
    assert values.max() < float(found.largest) < 1.25 * values.max()
    assert 0.5 * values.min() < float(found.smallest) < values.min()


def test_witnesses_attain_what_is_reported():
    few = gaussian(KEY, 5, (3, 4))
    for op, found in [*((OP, f) for f in PROFILE), (few, rip_exact(few))]:
        for X, value in ((found.maximiser, found.largest), (found.minimiser, found.smallest)):
            assert float(jnp.linalg.norm(X)) == pytest.approx(1, rel=1e-12)
            assert energy(op, X) == pytest.approx(float(value), rel=1e-9, abs=1e-14)
            singular = np.linalg.svd(np.asarray(X), compute_uv=False)
            assert np.all(singular[found.rank :] < 1e-12)


def test_fewer_measurements_than_entries_leave_something_unseen():
    found = rip_exact(gaussian(KEY, 5, (3, 4)))
    assert float(found.smallest) == 0
    assert float(found.delta) >= 1


def test_monotone_in_the_rank_and_bounded_by_the_exact_value():
    largest = [float(f.largest) for f in PROFILE]
    smallest = [float(f.smallest) for f in PROFILE]
    assert largest[0] < largest[1] < largest[2]
    assert smallest[0] > smallest[1] > smallest[2] > 0
    one_start = rip_profile(OP, jax.random.key(5), restarts=1, sweeps=1)
    deltas = [float(f.delta) for f in one_start]
    assert deltas == sorted(deltas)


def test_convergence_and_agreement_are_reported():
    found = PROFILE[0]
    assert found.highs.shape == found.lows.shape == (16,)
    assert float(found.change) < 1e-6
    assert float(jnp.max(found.highs)) == float(found.largest)
    near = [*(found.highs >= 0.99 * found.largest), *(found.lows <= found.smallest + 0.01 * abs(1 - found.smallest))]
    assert float(found.agreement) == pytest.approx(np.mean([bool(n) for n in near]))
    hasty = rip_lower_estimate(OP, KEY, sweeps=1)
    assert float(hasty.change) == np.inf  # one sweep: nothing to compare with
    assert float(hasty.largest) <= float(rip_lower_estimate(OP, KEY).largest)


def test_laws_of_transformations():
    tensor = np.asarray(OP.tensor)
    P, Q = (np.linalg.qr(np.random.default_rng(i).normal(size=(d, d)))[0] for i, d in ((1, 3), (2, 4)))
    base = PROFILE[0]
    turned = rip_lower_estimate(dense(jnp.asarray(P @ tensor @ Q)), KEY)
    shuffled = rip_lower_estimate(dense(jnp.asarray(tensor[::-1].copy())), KEY)
    for other in (turned, shuffled):
        assert float(other.largest) == pytest.approx(float(base.largest), rel=1e-5)
        assert float(other.smallest) == pytest.approx(float(base.smallest), rel=1e-4)
    flipped = rip_lower_estimate(dense(jnp.asarray(tensor.transpose(0, 2, 1).copy())), KEY)
    assert float(flipped.largest) == pytest.approx(float(base.largest), rel=1e-5)
    louder = rip_lower_estimate(dense(jnp.asarray(2 * tensor)), jax.random.fold_in(KEY, 1))
    assert float(louder.largest) == pytest.approx(4 * float(base.largest), rel=1e-5)
    assert float(louder.smallest) == pytest.approx(4 * float(base.smallest), rel=1e-4)


def test_isometry_has_constant_zero():
    op = scaled(identity((2, 2)), 2.0)  # (1/n) sum <A_i, X>^2 = ||X||^2
    for found in rip_profile(op, KEY):
        assert float(found.delta) == pytest.approx(0, abs=1e-12)
        assert float(found.agreement) == 1


def test_other_kinds_of_measurements():
    op = bilinear_gaussian(KEY, 30, (3, 4))
    got, expected = (rip_lower_estimate(o, KEY) for o in (op, dense(materialise(op))))
    assert float(got.largest) == pytest.approx(float(expected.largest), rel=1e-5)
    assert energy(op, got.maximiser) == pytest.approx(float(got.largest), rel=1e-9)
    few = entries(jnp.array([0, 0, 1]), jnp.array([0, 1, 2]), (3, 4))
    assert float(rip_exact(few).largest) == pytest.approx(1 / 3)


def test_same_key_same_bits():
    again, other = rip_lower_estimate(OP, KEY), rip_lower_estimate(OP, jax.random.key(11))
    assert np.array_equal(again.highs, rip_lower_estimate(OP, KEY).highs)
    assert not np.array_equal(again.highs, other.highs)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: rip_lower_estimate(OP, KEY, restarts=0), "restarts: got 0, expected an integer >= 1"),
        (lambda: rip_lower_estimate(OP, KEY, sweeps=0), "sweeps: got 0"),
        (lambda: rip_lower_estimate(OP, KEY, tolerance=-1.0), "tolerance: got -1"),
        (lambda: rip_lower_estimate(OP, KEY, 4), r"rank: got 4, expected a whole number from 1 to min\(d1, d2\) = 3"),
        (lambda: rip_lower_estimate(OP, KEY, 0), "rank: got 0"),
        (lambda: rip_profile(OP, KEY, [2, 1]), r"ranks: got \[2, 1\], expected one or more increasing"),
        (lambda: rip_profile(OP, KEY, []), "ranks: got a list of 0"),
    ],
)
def test_errors(call, sentence):
    with pytest.raises(UsageError, match=sentence):
        call()


def test_the_change_of_the_end_that_still_moves_is_reported(monkeypatch):
    for up, down in ((0.3, 0.1), (0.1, 0.3)):

        def search(op, pool, sign, *limits, up=up, down=down):
            ends = jnp.full(len(pool), 1 + 0.5 * sign)
            return jnp.zeros((len(pool), *op.matrix_shape)), ends, jnp.full(len(pool), jnp.where(sign > 0, up, down))

        monkeypatch.setattr(rip, "_search", search)
        assert float(rip_lower_estimate(OP, KEY).change) == 0.3
