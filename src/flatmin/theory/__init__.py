"""The papers' theorems as named functions, one module a paper; oracles for the rest of the library."""

from flatmin._core.exports import export as _export
from flatmin.theory import closed_forms as closed_forms
from flatmin.theory import ding2022 as ding2022
from flatmin.theory import gatmiry2023 as gatmiry2023
from flatmin.theory import implicit_drift as implicit_drift
from flatmin.theory import kamber2025 as kamber2025
from flatmin.theory import marion2024 as marion2024
from flatmin.theory import mulayoff2023 as mulayoff2023
from flatmin.theory import smallest_sharpness as smallest_sharpness
from flatmin.theory._statements import STATEMENTS as STATEMENTS
from flatmin.theory._statements import Statement as Statement

_export(
    globals(),
    *("closed_forms", "ding2022", "gatmiry2023", "implicit_drift", "kamber2025", "marion2024", "mulayoff2023"),
    "smallest_sharpness",
)
