"""The result of a run, and of several that differ in their seed, as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from robustdistill.report.numbers import Mean, means, percent, spread
from robustdistill.report.tables import Table

CHECKPOINTS = ("last", "best")


def result_table(result: Mapping[str, Any]) -> Table:
    """The last and the best epoch: judged on the split that selected, and on the test images."""
    split, attack = result["selection"], result["last"]["attack"]
    selected = split != "test"
    columns = ("", "epoch", *((f"{split} clean", f"{split} {attack}") if selected else ()))
    rows = []
    for which in CHECKPOINTS:
        record = result[which]
        chosen = (percent(record["clean"]), percent(record["robust"])) if selected else ()
        tested = (percent(accuracies(record).get(name)) for name in ("clean", attack))
        rows.append((which, str(record["epoch"] + 1), *chosen, *tested))
    return Table((*columns, "test clean", f"test {attack}"), tuple(rows))


def seeds_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Each seed's test accuracies, last and best, and under them mean ± standard deviation."""
    names = list(accuracies(results[0]["last"]))
    cells = [(which, name) for which in CHECKPOINTS for name in names]
    rows = [(str(r["seed"]), *(percent(accuracies(r[which])[name]) for which, name in cells)) for r in results]
    mean = aggregate(results)
    rows.append(("mean", *(spread(mean[which][name]) for which, name in cells)))
    return Table(("seed", *(f"{which} {name}" for which, name in cells)), tuple(rows))


def aggregate(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Mean]]:
    """The mean over runs of the test accuracies of the last and of the best epoch."""
    return {which: means([accuracies(r[which]) for r in results]) for which in CHECKPOINTS}


def accuracies(record: Mapping[str, Any]) -> dict[str, float]:
    """The test accuracies of a result's last or best epoch, by attack."""
    return {name: value for name, value in record["test"].items() if name != "n"}


def images(result: Mapping[str, Any]) -> str:
    """What the test accuracies are of."""
    habit = "; the best epoch was selected on them" if result["selection"] == "test" else ""
    return f"{result['last']['test']['n']:,} test images of {result['data']}, eps {result['eps']:.4g}{habit}"
