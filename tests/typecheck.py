"""The type checker of the import hook: beartype, with `float` meaning real number as in PEP 484."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
