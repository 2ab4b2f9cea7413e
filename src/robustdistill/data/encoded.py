"""One encoded image (PNG, JPEG, ...) as uint8 pixels of a given size and number of colours."""

import io
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from robustdistill.errors import DamagedFile

FORMATS = {
    "PNG": ".png",
    "JPEG": ".jpg .jpeg",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "PPM": ".ppm .pgm",
    "TIFF": ".tif .tiff",
}
ENDINGS = frozenset(" ".join(FORMATS.values()).split())
LARGEST = 80_000_000  # pixels: a header can claim gigabytes
MANY = f"more than {LARGEST / 1e6:.0f} million pixels"
MODES = {1: "L", 3: "RGB"}


class Header(NamedTuple):
    """What the head of an image says: Pillow's mode, and its size in pixels."""

    mode: str
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.mode}, {self.width}x{self.height} pixels"


@dataclass(frozen=True)
class Form:
    """Images as they are to be: `channels` 1 (grey) or 3 (RGB), `size` x `size` pixels.

    Others are refused, unless they are `recoloured`, where their colours are converted, or `fitted`, where they are
    also scaled by their shorter side and cut out of their middle.
    """

    channels: int
    size: int
    fitted: bool = False
    recoloured: bool = False

    @property
    def header(self) -> Header:
        """What an image says that has this form."""
        return Header(MODES[self.channels], self.size, self.size)

    def takes(self, found: Header) -> bool:
        """Whether an image that says `found` is brought into this form."""
        return self.fitted or found == (found.mode if self.recoloured else self.header.mode, self.size, self.size)


def header(data: bytes, where: str) -> Header:
    """What the head of an encoded image says. DamagedFile if it is no image, or a monstrous one."""
    with _opened(data, where) as image:
        return Header(image.mode, *image.size)


def decode(data: bytes, form: Form, where: str) -> NDArray[np.uint8]:
    """The pixels `[C, S, S]` of an encoded image. DamagedFile, which begins with `where`, if they cannot be had."""
    with _opened(data, where) as image:
        found = Header(image.mode, *image.size)
        if not form.takes(found):
            raise DamagedFile(f"{where} is {found}; the others are {form.header}")
        try:
            image = image.convert(form.header.mode)  # a copy where it is so already
            if form.fitted:
                image = ImageOps.fit(image, (form.size, form.size), Image.Resampling.BICUBIC)
            pixels = np.asarray(image)
        except Exception as error:  # Pillow raises errors of many types on bytes that are cut short
            raise DamagedFile(f"{where} holds no whole image ({error})") from error
    return pixels[None] if form.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _opened(data: bytes, where: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=tuple(FORMATS))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DamagedFile(f"{where} claims {MANY}") from error
    except Exception as error:
        raise DamagedFile(f"{where} is no image that can be read") from error
    if image.width * image.height > LARGEST:
        raise DamagedFile(f"{where} claims {MANY}")
    return image
