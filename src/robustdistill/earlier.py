"""What a run's folder holds of earlier evaluations: what a further one adds to, and what it must not replace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustdistill.errors import DamagedFile
from robustdistill.evaluation.verdict import Verdict, worst
from robustdistill.store import rundir, sealed

CHECKED = ("alarms", "curves", "examples_sha256")
WORST = "worst"


@dataclass(frozen=True)
class Earlier:
    """`evaluation.json` at `path`: no `facts` where there is none that can be read, no `verdicts` of other images.

    `records` are the verdicts by attack as they are written there.
    """

    path: Path
    facts: Mapping[str, Any]
    verdicts: Sequence[Verdict]
    records: Mapping[str, Any]

    def alike(self, facts: Mapping[str, Any]) -> bool:
        """Whether verdicts of `facts` are on the same weights and images, within the same radius and so on."""
        return bool(self.verdicts) and self.facts.get("fingerprint") == facts["fingerprint"]

    def guarded(self, facts: Mapping[str, Any]) -> str:
        """Why verdicts of `facts` do not go there: "" if they do. A whole test set costs hours: it is replaced by
        itself only, where weights, version or device are others now, and the old numbers no longer hold.
        """
        differ = self._otherwise(facts)
        if not self.facts.get("whole") or self.alike(facts) or not differ:
            return ""
        here = f"all {self.facts['n']:,} test images of {self.facts['data']} at eps {self.facts['eps']:.4g}"
        return (
            f"{self.path} stays as it is: it has the verdicts on {here}, and these are {', '.join(differ)}. They "
            "are shown only; --out FILE keeps them, and so does the run once that file is moved away"
        )

    def _otherwise(self, facts: Mapping[str, Any]) -> list[str]:
        told = {
            "data": f"on {facts['data']}",
            "n": f"on {facts['n']:,} images",
            "eps": f"at eps {facts['eps']:.4g}",
            "seed": f"from seed {facts['seed']}",
        }
        return [text for key, text in told.items() if self.facts.get(key) != facts[key]]

    def others(self, verdicts: Sequence[Verdict], facts: Mapping[str, Any]) -> list[Verdict]:
        """What is kept beside `verdicts`: the attacks that these do not judge anew."""
        return [v for v in self.verdicts if v.attack not in {n.attack for n in verdicts}] if self.alike(facts) else []

    def joined(self, verdicts: Sequence[Verdict], facts: Mapping[str, Any]) -> list[Verdict]:
        """`verdicts` in the place of those of their name, the others as they were, and the worst case of them all."""
        if not self.others(verdicts, facts):
            return list(verdicts)
        everything = {v.attack: v for v in (*self.verdicts, *verdicts) if v.attack != WORST}
        return [*everything.values(), worst(list(everything.values()))]

    def kept(self, verdicts: Sequence[Verdict], facts: Mapping[str, Any]) -> dict[str, Any]:
        """The records of `others`, by attack, to be written as they were found; not that of the worst case."""
        return {v.attack: self.records[v.attack] for v in self.others(verdicts, facts) if v.attack != WORST}

    def checks(self) -> dict[str, Any]:
        """The alarms and curves, and the digest of the images for the eye."""
        return {key: self.facts[key] for key in CHECKED if key in self.facts}


def earlier(store: rundir.RunDir, labels: Tensor) -> Earlier:
    """What is there; `labels` are those of the images that are judged now."""
    path = store.path / rundir.EVALUATION
    try:
        content = sealed.read(path, "")
    except DamagedFile:  # `eval` is how a damaged one is mended
        return Earlier(path, {}, (), {})
    records = content.pop("verdicts", [])
    if not {"data", "n", "eps", "whole"} <= content.keys():
        return Earlier(path, {}, (), {})
    try:
        return Earlier(path, content, [_verdict(r, labels) for r in records], {r["attack"]: r for r in records})
    except (KeyError, TypeError, ValueError):  # of other images
        return Earlier(path, content, (), {})


def _verdict(record: Mapping[str, Any], labels: Tensor) -> Verdict:
    """A verdict as far as others need it; ValueError where it is on another number of images than `labels`."""
    correct = torch.tensor([c == "1" for c in record["correct"]])
    if correct.shape != labels.shape:
        raise ValueError(f"{record['attack']} is not of {len(labels)} images")
    return Verdict(record["attack"], record["eps"], correct, labels, record["params"], record["seconds"])
