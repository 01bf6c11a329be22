"""The papers' theorems as named functions, one module a paper; oracles for the rest of the library."""

from flatmin.theory import gatmiry2023 as gatmiry2023
from flatmin.theory._statements import STATEMENTS as STATEMENTS
from flatmin.theory._statements import Statement as Statement
