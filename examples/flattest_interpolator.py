"""The flattest interpolator three ways: directly, by the trace flow, and what label noise would need for it.

    python examples/flattest_interpolator.py

A depth-3 factorisation of a 12 x 12 matrix, seen through 80 Gaussian measurements. The direct solver finds the factors
with the smallest Hessian trace and says how sure it is; the trace flow walks there from a random interpolator, in the
time of label-noise SGD; and the induced regulariser says what the flattest factors of the true matrix would cost.
"""

import jax
import numpy as np

import flatmin as fm
from flatmin.interpolators import label_noise_time
from flatmin.parameterizations import Gaussian

jax.config.update("jax_enable_x64", True)


def main():
    instance = fm.problems.matrix_sensing(jax.random.key(0), (12, 12), rank=1, num_measurements=80, depth=3)
    problem = instance.problem
    found = fm.flattest(problem, key=jax.random.key(1), starts=("nuclear", "random"))
    print(f"flattest: trace {found.trace:.10g}, rank {found.rank}, {found.outcome.name}")
    print(f"  first order {found.stationarity:.0e}, curvature {found.curvature:+.1e}, loss {found.loss:.0e}")
    print(f"  spread over starts {found.spread:.0e}; {found.lower_kind}: no trace is below {found.lower:.4g}")
    print(f"  distance to the truth {float(instance.relative_error(found.matrix)):.1e}")

    start = problem.parameterization.init_params(jax.random.key(2), Gaussian(12**-0.5))
    flow = fm.follow_trace(problem, start, tolerance=1e-3)
    excess = flow.trace / found.trace - 1
    close = flow.times[np.argmax(excess < 1e-2)]
    steps = close / label_noise_time(1, learning_rate=0.01, noise=1.0, batch_size=16)
    print(f"trace flow: from {flow.trace[0]:.4g} to {flow.trace[-1]:.6g} in {flow.accepted} steps")
    print(
        f"  within 1% at time {close:.3f}: {steps:,.0f} steps of label-noise SGD at rate 0.01, noise 1, batches of 16"
    )

    value = fm.induced_regulariser(problem.measurements, instance.truth, depth=3)
    print(f"F(truth) = {value.value:.10g}, proven to a relative {value.gap:.0e}")
    return found, flow, value


if __name__ == "__main__":
    main()
