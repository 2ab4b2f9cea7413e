"""The data sets: inside the package, on disk, or to be downloaded."""

from pathlib import Path
from typing import TYPE_CHECKING

from robustdistill.doctor.finding import Asked, Finding, fails, note, ok
from robustdistill.errors import first_line

if TYPE_CHECKING:  # what they import may be missing here: functions import what they use
    from robustdistill.registry import Registry
    from robustdistill.types import OnDisk

CIFARS = ("cifar10", "cifar100")
GIVE = "give the folder that holds it: --data-dir DIR"


def data(asked: Asked) -> list[Finding]:
    """The default data set, the CIFARs, and the one that was asked about."""
    from robustdistill.registry import default_registry
    from robustdistill.resolve import DEFAULT_DATA

    registry, wanted = default_registry(), asked.data or DEFAULT_DATA
    names = dict.fromkeys((DEFAULT_DATA, *CIFARS, wanted))
    return [_one(name, registry, asked.data_dir if name == wanted else None, name == wanted) for name in names]


def _one(name: str, registry: "Registry", directory: Path | None, needed: bool) -> Finding:
    check = f"data {name}"
    try:
        dataset = registry.dataset(name, directory)
        if dataset.look and dataset.needs_dir:
            return _looked(name, dataset.look(directory), needed)
        return _other(name, registry, directory)
    except Exception as error:
        return fails(
            check, first_line(error), "see `robustdistill list datasets`; or use another --data", needed=needed
        )


def _looked(name: str, here: "OnDisk | None", needed: bool) -> Finding:
    from robustdistill.data import download

    check = f"data {name}"
    if here is not None:
        return ok(check, f"on disk: {here.folder}")
    if not download.hub_cache()[1]:
        return ok(check, "would be downloaded, once")
    told, advice = "not on disk, and HF_HUB_OFFLINE forbids to download it", f"unset HF_HUB_OFFLINE, or {GIVE}"
    return fails(check, told, advice) if needed else note(check, told, advice)


def _other(name: str, registry: "Registry", directory: Path | None) -> Finding:
    """The default one is read; of a plugin's, only the plugin knows how to look for its images."""
    from robustdistill.resolve import DEFAULT_DATA

    check, entry = f"data {name}", registry.entry("dataset", name)
    dataset = registry.dataset(name, directory)
    if directory is not None and not dataset.needs_dir:
        return fails(check, f"{name} comes with its package and takes no --data-dir", "leave --data-dir out")
    if directory is not None and not directory.is_dir():
        return fails(check, f"there is no folder {directory}", GIVE)
    if dataset.needs_dir and directory is None and not dataset.downloads:
        return fails(check, f"{entry.origin} brings no images", GIVE)
    if name != DEFAULT_DATA:
        return ok(check, f"{entry.origin}; its images are read when a run starts")
    splits = dataset.load(None)
    return ok(check, f"{sum(map(len, (splits.train, splits.holdout, splits.test))):,} images inside the package")
