"""Eight small photographs of the package, in colour and unlike each other, on which models are compared.

Their origins and licences are in NOTICE; `tools/make_photographs.py` makes them again.
"""

from __future__ import annotations

import zipfile
from importlib import resources

from torch import Tensor

from inceptionv4.data.decode import decode
from inceptionv4.data.transforms import as_batch, evaluation_crop
from inceptionv4.spec import Preprocessing


def load_photographs(preprocessing: Preprocessing) -> Tensor:
    """All of them, prepared as an evaluation does: uint8 `(8, 3, size, size)`."""
    with (resources.files("inceptionv4.data") / "photographs.zip").open("rb") as file, zipfile.ZipFile(file) as archive:
        pictures = [decode(archive.read(name), name) for name in archive.namelist()]
    return as_batch([evaluation_crop(picture, preprocessing) for picture in pictures], preprocessing.size)
