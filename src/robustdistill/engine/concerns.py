"""What judging an epoch reveals that a user should know: masked gradients, and a teacher behind its student."""

import math
from collections.abc import Sequence
from itertools import pairwise

from robustdistill.engine.job import Judge
from robustdistill.engine.state import State

DROP = 0.2  # of robust accuracy, from one judged epoch to the next
SURE = 2.576  # standard deviations: chance alone does that in one of a hundred epochs


def concerns(judge: Judge, state: State, robust: float, last: bool) -> list[str]:
    """Sentences on the epoch whose robust accuracy is `robust`, which is not in the state's history yet.

    Most epochs cost nothing: FGSM is run after a drop, or else at the `last` epoch, and the teacher is judged once.
    """
    earlier = [float(record["robust"]) for record in state.history]
    found = (_masked(judge, state, earlier, robust, last), _outdone(judge, earlier, robust))
    return [sentence for sentence in found if sentence]


def _masked(judge: Judge, state: State, earlier: Sequence[float], robust: float, last: bool) -> str:
    """Catastrophic overfitting (Wong et al. 2020): a strong attack's accuracy falls, FGSM's does not."""
    falls = [before - after > DROP for before, after in pairwise([*earlier, robust])]
    fell = falls[-1:] == [True]
    if judge.one_step is None or not (fell or (last and not any(falls))):
        return ""
    one_step = judge.one_step(state.judged)
    if one_step - robust <= DROP or (not fell and robust > one_step / 2):
        return ""
    course = f"fell from {100 * earlier[-1]:.1f} to" if fell else "ends, without a sudden fall, at"
    return (
        f"catastrophic overfitting: accuracy under {judge.attack} {course} {100 * robust:.1f} %, under FGSM it is "
        f"{100 * one_step:.1f} %: the student masks its gradients. More steps of the attack or a random start help"
        + ("; the best epoch is kept" if fell else "")
    )


def _outdone(judge: Judge, earlier: Sequence[float], robust: float) -> str:
    """Said once, in the first epoch in which the student is ahead by more than chance."""
    if judge.teacher is None:
        return ""
    teacher, n = judge.teacher()

    def ahead(accuracy: float) -> bool:
        variance = accuracy * (1 - accuracy) / judge.n + teacher * (1 - teacher) / n
        return accuracy - teacher > SURE * math.sqrt(variance)

    if not ahead(robust) or any(map(ahead, earlier)):
        return ""
    return (
        f"the student is ahead of its teacher: under {judge.attack} {100 * robust:.1f} % against "
        f"{100 * teacher:.1f} % (on {n} images of {judge.split}); a more robust teacher may help it more"
    )
