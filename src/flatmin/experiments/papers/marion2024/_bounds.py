"""The three bounds that figures and claims use; to be replaced by `flatmin.theory.marion2024` of the same names."""


def sharpness_lower_bound(a: float, w_norm: float, depth: int) -> float:
    """`2 L a ||w*||^{2 - 2/L}`, below the sharpness of every minimiser [M, Thm 1]."""
    return 2 * depth * a * w_norm ** (2 - 2 / depth)


def flow_sharpness_upper_bound(lambda_max: float, depth: int) -> float:
    """`8 L Lambda`, above the sharpness where gradient flow from small initialisation ends, `||w*|| = 1` [M, Sec 3]."""
    return 8 * depth * lambda_max


def critical_learning_rate(a: float, w_norm: float, depth: int) -> float:
    """`1 / (L a ||w*||^{2 - 2/L})`: gradient descent settles at no minimiser beyond it [M, Thm 1]."""
    return 1 / (depth * a * w_norm ** (2 - 2 / depth))
