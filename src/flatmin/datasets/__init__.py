"""Users' files and the data sets inside installed packages, read into measurements and targets.

Nothing is downloaded. Every refusal is one sentence that names the file and what to change.
"""

from flatmin._core.exports import export as _export
from flatmin.datasets.packaged import PACKAGED as PACKAGED
from flatmin.datasets.packaged import PackagedFile as PackagedFile
from flatmin.datasets.packaged import load_packaged as load_packaged
from flatmin.datasets.ratings import Ratings as Ratings
from flatmin.datasets.ratings import load_ratings as load_ratings
from flatmin.datasets.reading import ReadOptions as ReadOptions
from flatmin.datasets.reading import fingerprint as fingerprint
from flatmin.datasets.reading import read_data as read_data
from flatmin.datasets.recovery_data import RecoveryData as RecoveryData

_export(globals())
