"""How a flatness is computed: values that the verbs take as `method`."""

import equinox as eqx


class AbstractMethod(eqx.Module):
    """A way to compute a flatness."""


class Auto(AbstractMethod):
    """The best available: a closed form where there is one, else dense for few parameters, else matrix-free."""


class Exact(AbstractMethod):
    """The closed form of a RecoveryProblem; valid at every point for traces."""


class Dense(AbstractMethod):
    """The full Hessian by autodiff; memory p^2, for p up to a few thousand. Works for any JAX loss."""


class TangentKernel(AbstractMethod):
    """The tangent kernel `K` of a RecoveryProblem: exact where `A*(r) = 0` (interpolation, least-squares minima)."""


class Hutchinson(AbstractMethod):
    """Hutchinson's stochastic trace.

    Attributes:
        num_probes: number of Hessian-vector products.
    """

    num_probes: int = eqx.field(static=True, default=100)


class XTrace(AbstractMethod):
    """The XTrace stochastic trace.

    Attributes:
        num_matvecs: number of Hessian-vector products, even.
    """

    num_matvecs: int = eqx.field(static=True, default=100)


class Lanczos(AbstractMethod):
    """Implicitly restarted Lanczos for the ends of the spectrum; any JAX loss.

    Attributes:
        tolerance: relative accuracy, 0 for machine precision.
        max_matvecs: budget of Hessian-vector products.
    """

    tolerance: float = eqx.field(static=True, default=0.0)
    max_matvecs: int = eqx.field(static=True, default=5000)
