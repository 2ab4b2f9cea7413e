"""The alarms of gradient masking: what each says after the numbers, why that is suspicious and what to do.

A masked gradient makes attacks fail, not the network robust (Athalye et al. 2018; Carlini et al. 2019).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Alarm:
    """One suspicion, as a sentence for the reader of a result."""

    name: str
    sentence: str


MEANING: dict[str, str] = {
    "nan-gradient": "no attack can follow it; look for a square root, a norm or a logarithm at 0",
    "zero-gradient": "there an attack by gradients stands still and surviving it means nothing; look for rounding, "
    "detach, hard thresholds or saturated logits, and differentiate around them",
    "saturated-logits": "softmax is 0 or 1 in float32, and the gradient of the cross-entropy vanishes; attack a margin "
    "(cw, aa), or the logits divided by a temperature",
    "probabilities": "a softmax at the network's end flattens every objective; return the logits",
    "quantised-logits": "steps give an attack nothing to climb, neither by gradients nor by queries; attack the "
    "network before its outputs are rounded",
    "step-function": "the gradient of a step function is zero or made up; attack a smooth stand-in of the step (BPDA), "
    "and believe no attack that trusts the gradient",
    "randomised": "the attack sees other numbers than the verdict; fix the randomness, or average gradients and "
    "verdicts over it (EOT)",
    "fgsm-beats-pgd": "many steps must find what one step finds, so the gradient leads astray away from the images; "
    "take smaller steps and more of them, and quote aa",
    "noise-beats-pgd": "errors lie everywhere and the gradient does not lead to them; the accuracy under pgd is no "
    "bound, so quote aa",
    "black-box-beats-white-box": "who sees the gradient must not do worse than who sees the logits alone; the gradient "
    "is masked, so find out where, and quote aa",
    "transfer-beats-white-box": "no other network's gradient may serve better than the network's own; the gradient is "
    "masked, so quote the transfer too",
    "never-falls": "at that radius every image can be made plain grey, so this attack does not work on this network, "
    "and its accuracy at smaller radii is no bound",
    "not-monotone": "a larger ball contains the smaller one, so the attack fails at the larger radius; take smaller "
    "steps and more of them, and quote aa",
    "more-steps-gain": "the attack was stopped too early; quote the larger number of steps, or aa",
    "more-restarts-gain": "one start is not enough; quote the worst of several, or aa",
}


def alarm(name: str, seen: str) -> Alarm:
    """The alarm `name` with the numbers that raised it, `seen`, before what they mean."""
    return Alarm(name, f"{seen}: {MEANING[name]}.")
