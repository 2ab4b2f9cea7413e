"""The contracts of teachers and data sets: what their records promise is there."""

from dataclasses import dataclass

import torch

from robustdistill import assemble
from robustdistill.checks import check_network
from robustdistill.located import locate_teacher
from robustdistill.resolve import resolve
from robustdistill.spec import Node
from robustdistill.testing.checks import Check, DoesNotApply, hold
from robustdistill.testing.registered import Registered
from robustdistill.types import Dataset, Splits, Teacher


@dataclass(frozen=True)
class RecordCase(Registered):
    """A teacher or a data set to check, by its name in a registry."""

    @property
    def teacher(self) -> Teacher:
        """The record, where it is a teacher."""
        teacher: Teacher = self.registry.get("teacher", self.name)
        return teacher

    @property
    def dataset(self) -> Dataset:
        """The record, where it is a data set."""
        dataset: Dataset = self.registry.get("dataset", self.name)
        return dataset

    def splits(self) -> Splits:
        """The images of a data set that needs no folder and downloads nothing."""
        if self.dataset.needs_dir or self.dataset.downloads:
            raise DoesNotApply("its images are not here: they are downloaded, or lie in a folder of the user's")
        return self.dataset.load(None)


def names(case: RecordCase) -> None:
    """Names an architecture, with parameters that it has, and a data set that exist."""
    teacher = case.teacher
    try:
        case.registry.params("model", teacher.model, teacher.params, "params")
        case.registry.get("dataset", teacher.dataset)
    except Exception as error:
        raise AssertionError(f"{case.what}: {error}") from None


def measured(case: RecordCase) -> None:
    """Gives accuracies as fractions, and the radius of the robust ones."""
    teacher = case.teacher
    numbers = {"clean": teacher.clean, **teacher.robust}
    wrong = [name for name, value in numbers.items() if value is not None and not 0 <= value <= 1]
    hold(not wrong, f"{case.what}: {', '.join(wrong)} must lie in [0, 1]")
    hold(teacher.eps is not None or not teacher.robust, f"{case.what} gives robust accuracies and no eps")


def loads(case: RecordCase) -> None:
    """Its file has the recorded sha256 and loads into its architecture."""
    teacher = case.teacher
    if teacher.path is None:
        raise DoesNotApply("the user brings its file")
    hold(teacher.sha256, f"{case.what} brings a file and no sha256 of it")
    dataset = case.registry.get("dataset", teacher.dataset)
    try:
        network = assemble.build_teacher(Node(name=case.name), dataset, case.registry, teacher.dataset)
        check_network(network, dataset, case.what)
    except Exception as error:
        raise AssertionError(f"{case.what}: {error}") from None


def layer(case: RecordCase) -> None:
    """Makes a complete spec: its radius, default student and teacher are ones that a run takes."""
    try:
        spec = resolve([{"data": case.name}], case.registry)
        for teacher in spec.teachers.values():
            locate_teacher(teacher, case.registry, case.name)
    except Exception as error:
        if "brings no weights" not in str(error):
            raise AssertionError(f"{case.what}: {error}") from None


def splits(case: RecordCase) -> None:
    """Loads three splits of uint8 images `[N, C, H, W]` and int64 labels `[N]` of its classes, none of them empty."""
    data, loaded = case.dataset, case.splits()
    image = (data.channels, data.size, data.size)
    for name in ("train", "holdout", "test"):
        split = getattr(loaded, name)
        x, y = split.images, split.labels
        hold(len(x) == len(y) > 0, f"{case.what}: {name} has {len(x)} images and {len(y)} labels")
        hold(
            x.shape[1:] == image and x.dtype == torch.uint8,
            f"{case.what}: the images of {name} are {list(x.shape[1:])} in {x.dtype}, not {list(image)} in torch.uint8",
        )
        good = y.dtype == torch.int64 and set(y.unique().tolist()) <= set(range(len(data.classes)))
        hold(good, f"{case.what}: the labels of {name} are not int64 from 0 to {len(data.classes) - 1}")


def same_again(case: RecordCase) -> None:
    """Loads the same images again: the cut into splits is not drawn anew."""
    one, other = case.splits(), case.splits()
    same = all(torch.equal(getattr(one, n).labels, getattr(other, n).labels) for n in ("train", "holdout", "test"))
    hold(same, f"{case.what} cuts its splits otherwise the second time; cut them by a fixed seed")


TEACHER_CHECKS: tuple[Check[RecordCase], ...] = (names, measured, loads)
DATASET_CHECKS: tuple[Check[RecordCase], ...] = (layer, splits, same_again)
