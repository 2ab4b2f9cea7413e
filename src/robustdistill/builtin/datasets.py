"""The built-in data sets and what each owns of a run: radius, augmentation, default student and teacher."""

import functools
from typing import Any

from robustdistill.data import lying, origins, own, sources
from robustdistill.data.origins import Origin
from robustdistill.hookspecs import hookimpl
from robustdistill.types import Augment, Dataset, DatasetAt

DIGITS = Dataset(
    load=sources.digits,
    classes=tuple(str(digit) for digit in range(10)),
    channels=1,
    size=8,
    eps=0.2,
    augment=Augment(pad=1),
    student="digits-net",
    teacher="digits-robust",
    images=(1_257, 180, 360),
    look=sources.digits_here,
    summary="1,797 handwritten digits of 8x8 pixels, inside the package",
    licence="CC BY 4.0 (Alpaydin & Kaynak 1998, doi 10.24432/C50P49)",
)


def _photographs(origin: Origin, **own: Any) -> Dataset:
    """Colour images that are downloaded once, or lie in a folder of the user's; the papers' radius and student."""
    look = functools.partial(lying.look, origin)
    common: dict[str, Any] = {"channels": 3, "eps": "8/255", "student": "rn-18", "needs_dir": True, "look": look}
    return Dataset(**common, megabytes=origin.megabytes, **own)


CIFAR10 = _photographs(
    origins.CIFAR10,
    load=sources.cifar10,
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    size=32,
    augment=Augment(pad=4, flip=True),
    teacher="wrn-34-10",
    downloads=(48_000, 2_000, 10_000),
    summary="60,000 photographs of 32x32 pixels, downloaded once or from a folder of yours",
    licence="none stated by its authors (Krizhevsky 2009)",
)

FINE_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""

CIFAR100 = _photographs(
    origins.CIFAR100,
    load=sources.cifar100,
    classes=tuple(FINE_CLASSES.split()),
    size=32,
    augment=Augment(pad=4, flip=True),
    teacher="wrn-70-16-swish",
    downloads=(48_000, 2_000, 10_000),
    summary="CIFAR-10's sibling of 100 classes, 60,000 photographs, downloaded once or from a folder of yours",
    licence="none stated by its authors (Krizhevsky 2009)",
)

SVHN = _photographs(
    origins.SVHN,
    load=sources.svhn,
    classes=tuple(str(digit) for digit in range(10)),
    size=32,
    augment=Augment(pad=4),  # a digit that is flipped is none
    teacher="",
    downloads=(70_332, 2_925, 26_032),
    summary="99,289 digits of house numbers of 32x32 pixels, downloaded once or from a folder of yours",
    licence="for non-commercial use only (Netzer et al. 2011)",
)

TINY_IMAGENET = _photographs(
    origins.TINY_IMAGENET,
    load=sources.tiny_imagenet,
    classes=tuple(map(str, range(200))),
    size=64,
    augment=Augment(pad=4, flip=True),
    teacher="",
    downloads=(96_000, 4_000, 10_000),
    summary="110,000 photographs of 200 classes, 64x64 pixels, downloaded once or from a folder of yours",
    licence="none stated (Le & Yang 2015); the images are ImageNet's",
)


@hookimpl
def register_datasets() -> dict[str, Dataset | DatasetAt]:
    return {
        "digits": DIGITS,
        "cifar10": CIFAR10,
        "cifar100": CIFAR100,
        "svhn": SVHN,
        "tiny-imagenet": TINY_IMAGENET,
        "imagefolder:{path}": DatasetAt(
            own.imagefolder, "folders of images, a folder a class, in train/ and test/ or alone"
        ),
        "parquet:{path}": DatasetAt(own.parquet, "Hugging Face's parquet files, train-*.parquet and test-*.parquet"),
        "npz:{path}": DatasetAt(own.archive, "a NumPy archive of image and label, in the layout of DM-Improves-AT"),
    }
