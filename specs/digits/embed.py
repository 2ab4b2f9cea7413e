"""Trains the embedded digits teachers by their specs and puts weights and measured accuracy into the package.

make teachers        some ten minutes on two busy CPU cores; the weights differ in their last bits between machines
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import robustdistill as rd
from robustdistill.events import Evaluated
from robustdistill.run import run_of, stored_spec
from robustdistill.store.atomic import sha256, write_atomic
from robustdistill.store.weights import save_weights

HERE = Path(__file__).parent
ASSETS = HERE.parents[1] / "src" / "robustdistill" / "builtin" / "assets"
TEACHERS = {"digits-robust": "teacher-robust.toml", "digits-clean": "teacher-clean.toml"}
ATTACKS = ("fgsm", "pgd", "pgd-trades", "cw")


def trained(spec: Path, out: Path) -> Path:
    """A finished run of `spec`; one that is there already is taken as it is."""
    if not (out / "result.json").exists():
        for event in rd.train(spec, out=out):
            if isinstance(event, Evaluated):
                print(
                    f"{spec.name} epoch {event.epoch}: clean {event.clean:.3f}, robust {event.robust:.3f}", flush=True
                )
    return out


def embed(name: str, run: Path) -> dict[str, Any]:
    """Writes the best weights of `run` as asset `name`. Returns the record that goes beside them."""
    network, spec = rd.load(run, "best"), stored_spec(run_of(run))
    path = ASSETS / f"{name}.safetensors"
    save_weights(path, network.state_dict())
    verdicts = {v.attack: round(v.accuracy, 4) for v in rd.evaluate(network, attacks=ATTACKS, eps=spec.eps, seed=0)}
    return {
        "model": spec.student.name,
        "params": spec.student.params,
        "dataset": spec.data.name,
        "eps": spec.eps,
        "sha256": sha256(path),
        "clean": verdicts.pop("clean"),
        "robust": {a: verdicts[a] for a in ATTACKS},
        "notes": f"best epoch of specs/digits/{TEACHERS[name]}, judged on the 360 test images",
    }


def main(root: Path) -> None:
    records = {name: embed(name, trained(HERE / spec, root / name)) for name, spec in TEACHERS.items()}
    write_atomic(ASSETS / "teachers.json", json.dumps(records, indent=2) + "\n")
    print(json.dumps(records, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
