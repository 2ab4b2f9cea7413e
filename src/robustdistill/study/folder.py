"""The folder that a study's workers share: what is done, in somebody's hands, failed or still to do, read off files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustdistill.errors import DamagedFile, UserError
from robustdistill.store import lock, rundir, sealed
from robustdistill.store.atomic import write_atomic
from robustdistill.store.eventlog import now
from robustdistill.store.lease import Holder
from robustdistill.store.rundir import RunDir
from robustdistill.study.items import Item
from robustdistill.study.plan import Study, load_study

LOGS, PLANS, LEASE, FAILURE = "logs", ".study.toml", ".lease", ".failed.json"
LASTING = {2, 3, 4, 7}  # bad input, diverged, damaged, a plugin: the same will happen again


@dataclass(frozen=True)
class Failure:
    """How a run failed: the exit code, a sentence, when, and which process of which machine wrote the log `log`."""

    code: int
    sentence: str
    when: str
    log: str = ""

    @property
    def lasting(self) -> bool:
        """Whether it will fail in the same way when it is tried again."""
        return self.code in LASTING


@dataclass(frozen=True)
class Folder:
    """A study and the folder `path` of its runs; other studies may keep theirs there too."""

    path: Path
    study: Study
    _done: dict[str, list[tuple[int, int]]] = field(default_factory=dict, compare=False, repr=False)

    def run(self, item: Item) -> RunDir:
        """The run's directory, whether it exists or not; the verdicts on a target have such a folder too."""
        return RunDir(self.path / item.id)

    def lease(self, item: Item) -> Path:
        """Where the one who works on it leaves a lease."""
        return self.path / f"{item.id}{LEASE}"

    @property
    def logs(self) -> Path:
        """What workers print."""
        return self.path / LOGS

    # ---- the study itself -------------------------------------------------------------------------------
    def begin(self) -> None:
        """Makes the folder, with the study in it as it is now."""
        self.logs.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path / f"{self.study.called}{PLANS}", self.study.to_toml())

    # ---- what is done -----------------------------------------------------------------------------------
    def trained(self, item: Item) -> bool:
        """Whether nothing is left to train."""
        return item.spec is None or (self.run(item).path / rundir.RESULT).exists()

    def done(self, item: Item) -> bool:
        """Whether it is trained, and judged as the study asks."""
        files = [self.run(item).path / name for name in (rundir.RESULT, rundir.EVALUATION)]
        marks = [(stat.st_mtime_ns, stat.st_size) for file in files if file.exists() and (stat := file.stat())]
        if marks and self._done.get(item.id) == marks:  # asked all the time, and a verdict names every image
            return True
        done = self.trained(item) and not self.lacking(item)
        if done:
            self._done[item.id] = marks
        return done

    def lacking(self, item: Item) -> list[str]:
        """The attacks under which it is yet to be judged."""
        found = self.found(item)
        return [name for name in self.study.judge.attacks if name not in found]

    def found(self, item: Item) -> list[str]:
        """The attacks under which it was judged on the images and within the radius that the study asks for.

        Where it names none that is the run's own: an `eval` by hand may have been given another.
        """
        judged, ask = self.judged(item), self.study.judge
        limit = judged.get("limit", None if judged.get("whole", True) else judged.get("n"))
        eps = ask.eps or (item.spec.eps if item.spec else judged.get("eps"))
        alike = bool(judged) and limit == ask.n and judged.get("eps") == eps and judged.get("seed") == item.seed
        return [v["attack"] for v in judged["verdicts"] if v["attack"] != "worst"] if alike else []

    def judged(self, item: Item) -> dict[str, Any]:
        """What was noted of its judgement, empty if it was not judged. DamagedFile if that was changed."""
        path = self.run(item).path / rundir.EVALUATION
        return sealed.read(path, f"delete it, and start the study again ({self.study.called})") if path.exists() else {}

    # ---- what failed ------------------------------------------------------------------------------------
    def failure(self, item: Item) -> Failure | None:
        """How it failed when it was tried last; None if it did not, or was done since."""
        path = self._failure(item)
        if not path.exists():
            return None
        told = sealed.read(path, "delete it, and the run is tried again")
        return Failure(int(told["code"]), str(told["sentence"]), str(told["when"]), str(told.get("log", "")))

    def fail(self, item: Item, code: int, sentence: str, log: str = "") -> None:
        """Notes that it failed."""
        sealed.write(self._failure(item), {"code": code, "sentence": sentence, "when": now(), "log": log})

    def forgive(self, item: Item) -> None:
        """Forgets that it failed."""
        self._failure(item).unlink(missing_ok=True)

    def _failure(self, item: Item) -> Path:
        return self.path / f"{item.id}{FAILURE}"

    def left(self, these: Sequence[Item], since: str) -> list[Item]:
        """Those neither done nor failed; what failed before `since` is tried again, if it may come out otherwise."""
        return [item for item in these if not self.done(item) and not self.given_up(item, since)]

    def given_up(self, item: Item, since: str) -> bool:
        """Whether it failed for good, or at `since` (as of `eventlog.now`) or later."""
        failure = self.failure(item)
        return failure is not None and (failure.lasting or failure.when >= since)

    # ---- who works on it --------------------------------------------------------------------------------
    def holder(self, item: Item) -> Holder | None:
        """Who says to work on it."""
        try:
            return Holder.of(self.lease(item).read_text(encoding="utf-8", errors="replace"))
        except FileNotFoundError:
            return None

    def in_use(self, item: Item) -> bool:
        """Whether some process has its run open, as `train` by hand has."""
        return bool(lock.user(self.run(item).path / rundir.LOCK))

    def release(self, item: Item, dead: Holder) -> None:
        """Takes the run's lock from a process that is known to be dead, on whatever machine it ran."""
        lock.taken_from(self.run(item).path / rundir.LOCK, dead.pid, dead.born)


def find_folder(target: Path, profile: str, root: Path) -> Folder:
    """The folder of a study, named by its file, or by its folder where that holds only one study.

    Raises UserError if there is none.
    """
    if target.is_file():
        study = load_study(target, profile)
        return Folder(root / (study.folder or study.called), study)
    plans = sorted(target.glob(f"*{PLANS}"))
    if len(plans) != 1:
        names = ", ".join(str(p) for p in plans) or "none"
        raise UserError(
            f"{target} holds not one study but {len(plans)} ({names}); name the study's file, or one of these"
        )
    return Folder(target, load_study(plans[0]))


def refuse_run(path: Path) -> None:
    """UserError where a study's runs cannot go: among the files of a single run, or into a file."""
    if (path / rundir.SPEC).exists():
        raise UserError(f"{path} holds a run, not the runs of a study; choose another --out")
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, not a directory; choose another --out")


def progress(run: RunDir) -> tuple[int, Mapping[str, Any]]:
    """How many epochs of a run are done, and its last judged epoch's event."""
    try:
        events = run.read_events() if (run.path / rundir.EVENTS).exists() else []
    except DamagedFile:
        return 0, {}
    judged = [e for e in events if e.get("event") == "evaluated"]
    ends = [e["epoch"] + 1 for e in events if e.get("event") in ("trained", "evaluated")]
    return max(ends, default=0), judged[-1] if judged else {}
