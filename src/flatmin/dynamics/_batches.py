"""How mini-batches are drawn: with replacement, or epoch by epoch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, PyTree

from flatmin._core import UsageError
from flatmin.dynamics.record import whole


@dataclasses.dataclass(frozen=True)
class Batches:
    """B samples a step.

    Attributes:
        size: B.
        replacement: with or without.
    """

    size: Any
    replacement: Any

    def check(self) -> None:
        """Refuse what is no way to sample.

        Raises:
            UsageError: unless B is a whole number >= 1 and the other a truth value.
        """
        whole("batch_size", self.size, 1)
        if not isinstance(self.replacement, bool):
            raise UsageError(f"replacement: got {self.replacement!r}, expected True or False; False takes whole epochs")

    def draw(self, key: Key[Array, ""], num_samples: int, extra: Callable[[Any], PyTree] | None) -> PyTree:
        """One step's batch.

        Args:
            key: of the step: its first half is for the batch, its second for `extra`.
            num_samples: n.
            extra: further random numbers from a key; None, or a function that gives None, for none.

        Returns:
            The indices, or the pair `(indices, extra)`.

        Raises:
            UsageError: without replacement.
        """
        if not self.replacement:
            raise UsageError(
                "draw: got the key of one step, but without replacement a batch depends on the whole run; use train, "
                "or draw_steps with the run's key"
            )
        first, second = jax.random.split(key)
        return _beside(draw_batch(first, self.size, num_samples), None if extra is None else extra(second))

    def draw_steps(
        self,
        key: Key[Array, ""],
        steps: Int[Array, " K"],
        num_samples: int,
        extra: Callable[[Any], PyTree] | None,
    ) -> PyTree:
        """The batches of consecutive steps, stacked.

        Args:
            key: of the run; step k has the key `fold_in(key, k)`.
            steps: which.
            num_samples: n.
            extra: as in `draw`.

        Returns:
            As `draw`, with a leading axis.

        Raises:
            UsageError: for more samples than there are, without replacement.
        """
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, steps)
        if self.replacement:
            return jax.vmap(lambda k: self.draw(k, num_samples, extra))(keys)
        seconds = jax.vmap(lambda k: jax.random.split(k)[1])(keys)
        more = None if extra is None else jax.vmap(extra)(seconds)
        return _beside(shuffled_batches(key, steps, self.size, num_samples), more)


def _beside(indices: Array, extra: PyTree) -> PyTree:
    return indices if extra is None else (indices, extra)


def draw_batch(key: Key[Array, ""], batch_size: int, num_samples: int) -> Int[Array, " B"]:
    """Indices of a mini-batch, uniform with replacement.

    Args:
        key: random key.
        batch_size: B.
        num_samples: n.

    Returns:
        int32 in every precision mode: the same key draws the same samples.
    """
    return jax.random.randint(key, (batch_size,), 0, num_samples, dtype=jnp.int32)


_EPOCHS = 2**31
"""Folded into the run's key for the order of samples: no step has this number, so no step shares its key."""


def shuffled_batches(
    key: Key[Array, ""], steps: Int[Array, " K"], batch_size: int, num_samples: int
) -> Int[Array, "K B"]:
    """Batches without replacement: epoch e is a permutation by the key `fold_in(fold_in(key, 2**31), e)`, cut in order.

    Args:
        key: the run's key.
        steps: consecutive steps.
        batch_size: B.
        num_samples: n.

    Returns:
        int32. A function of key and step: neither of which steps are drawn together, nor of the precision mode. Cost:
        one permutation for each epoch that the steps touch.

    Raises:
        UsageError: if B > n.
    """
    if batch_size > num_samples:
        raise UsageError(
            f"batch_size: got {batch_size}, expected at most the {num_samples} samples without replacement; take a "
            "smaller batch, or replacement=True"
        )
    length = num_samples // batch_size  # steps of an epoch
    key = jax.random.fold_in(key, jnp.uint32(_EPOCHS))
    first = steps[0] // length
    touched = (steps.shape[0] + length - 2) // length + 1
    orders = jax.lax.map(
        lambda e: jax.random.permutation(jax.random.fold_in(key, e), jnp.arange(num_samples, dtype=jnp.int32)),
        first + jnp.arange(touched, dtype=jnp.int32),
    )
    places = (steps % length)[:, None] * batch_size + jnp.arange(batch_size, dtype=jnp.int32)[None, :]
    return orders[(steps // length - first)[:, None], places]
