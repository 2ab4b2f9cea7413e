"""What a study has found so far: for each combination of places but the seed, means over its seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from robustdistill.cli import outcomes
from robustdistill.cli.references import References, references
from robustdistill.cli.results import accuracies
from robustdistill.registry import Registry, default_registry
from robustdistill.report.numbers import Mean, means
from robustdistill.spec import RunSpec
from robustdistill.stored import stored_spec
from robustdistill.study.folder import Folder
from robustdistill.study.items import Item, items
from robustdistill.study.plan import SEED


@dataclass(frozen=True)
class Found:
    """The runs at one combination of `places`: those of `seeds` are done, `missing` are not.

    `best` and `last` hold the mean accuracies in [0, 1] of these epochs by attack, `facts` what they are of, `known`
    what they are held against.
    """

    places: Mapping[str, str]
    spec: RunSpec | None
    seeds: Sequence[int]
    missing: int
    best: Mapping[str, Mean]
    last: Mapping[str, Mean]
    facts: Mapping[str, Any]
    known: References
    done: Sequence[Item]


def found(folder: Folder) -> list[Found]:
    """One for each combination, in the order of the study's axes; those of which nothing is done too."""
    registry = default_registry()
    groups: dict[tuple[str, ...], list[Item]] = {}
    for item in items(folder.study, registry):
        groups.setdefault(tuple(place for axis, place in item.places.items() if axis != SEED), []).append(item)
    return [_found(folder, group, registry) for group in groups.values()]


def _found(folder: Folder, group: Sequence[Item], registry: Registry) -> Found:
    done = [item for item in group if folder.done(item)]
    judged = [folder.judged(item) for item in done]
    best = means([{v["attack"]: v["accuracy"] for v in j["verdicts"]} for j in judged])
    asked = ("clean", *folder.study.judge.attacks, *(["worst"] if len(folder.study.judge.attacks) > 1 else []))
    trained = [folder.run(item) for item in done if item.spec is not None]
    last = means([accuracies(outcomes.result(run)["last"]) for run in trained])
    facts = {key: judged[0].get(key) for key in ("data", "n", "whole", "eps")} if judged else {}
    places = {axis: place for axis, place in group[0].places.items() if axis != SEED}
    # As the run itself has it: without the teachers that nothing reads.
    spec = stored_spec(trained[0]) if trained else group[0].spec
    known = references(spec, registry) if spec else References()
    known = known if folder.study.table.paper else replace(known, paper=None)
    shown = {name: best[name] for name in asked if name in best}
    seeds = [item.seed for item in done]
    return Found(places, spec, seeds, len(group) - len(done), _own_worst(shown, judged), last, facts, known, done)


def _own_worst(best: dict[str, Mean], judged: Sequence[Mapping[str, Any]]) -> dict[str, Mean]:
    """Without `worst` where it is over more attacks than the study asks for, as another study judged the run too."""
    over = [v["params"]["over"] for j in judged for v in j["verdicts"] if v["attack"] == "worst"]
    wanted = set(best) - {"worst"}
    return best if all(set(names) == wanted for names in over) else {k: v for k, v in best.items() if k != "worst"}
