"""The built-in methods as data: a pair of objectives, the protocol of their source, and its other readings."""

from robustdistill.hookspecs import hookimpl
from robustdistill.types import Method, Recipe, Variant

NATURE = Method(
    inner="none",
    outer="nature",
    summary="natural training, no attack",
    cite="arXiv 2503.06559, section 4.1",
    recipe=Recipe(epochs=100, milestones=(75, 90)),
)

SAT = Method(
    inner="ce",
    outer="sat",
    summary="standard adversarial training",
    cite="Madry et al., ICLR 2018 (arXiv 1706.06083)",
    recipe=Recipe(start="uniform", epochs=200, milestones=(100, 150)),
    variants={
        "official": Variant(
            {"attack_bn": "train", "epochs": 205, "schedule": {"milestones": (102, 154)}},
            (
                "the student's BatchNorm is in train mode while it is attacked: running statistics move each step",
                "80,000 iterations of 128 images, drops at 40,000 and 60,000: about 205 epochs, drops at 102 and 154",
            ),
        )
    },
    notes=("the official code is for a TF1 w32-10 network; no official definition for ResNet-18 exists",),
)

TRADES = Method(
    inner="kl-student",
    outer="trades",
    summary="cross-entropy on x, and x' drawn to the student's own answer on x",
    cite="Zhang et al., ICML 2019 (arXiv 1901.08573)",
    recipe=Recipe(epochs=76, milestones=(75,)),
    variants={
        "official": Variant(
            {"eps": 0.031, "attack": {"step": 0.007}, "outer": {"natural_forwards": 2}},
            (
                "eps 0.031 and steps of 0.007, not 8/255 and 2/255",
                "x runs twice in the update (x, x', x): BatchNorm sees natural images twice as often as x'",
            ),
        )
    },
    notes=("the start must not be x itself: there the inner objective's gradient is zero",),
)

ARD = Method(
    inner="ce",
    outer="ard",
    summary="the student on x' learns the teacher's soft label on x",
    cite="Goldblum et al., AAAI 2020 (arXiv 1905.09747)",
    recipe=Recipe(start="uniform", epochs=200, milestones=(100, 150)),
    variants={
        "official": Variant(
            {
                "attack_bn": "train",
                "schedule": {"milestones": (100,)},
                "outer": {"kl_scale": "element_mean", "ce_tau": 1.0, "zero_terms": True},
            },
            (
                "the student's BatchNorm is in train mode while it is attacked",
                "the KL is a mean over classes too, a tenth of the textbook one on CIFAR-10",
                "x runs in the update although its CE has weight 0, at temperature 1",
                "the second drop of the learning rate, at epoch 150, never happens",
            ),
        )
    },
)

IAD = Method(
    inner="ce",
    outer="iad",
    summary="trust the teacher as far as it is right on x', else the student itself",
    cite="Zhu et al., ICLR 2022 (arXiv 2106.04928)",
    recipe=Recipe(start="uniform", epochs=200, milestones=(100, 150)),
    variants={
        "official": Variant(
            {
                "attack_bn": "train",
                "schedule": {"milestones": (100,)},
                "outer": {"teacher_weight": "one", "natural_forwards": 2},
            },
            (
                "the student's BatchNorm is in train mode while it is attacked",
                "the teacher's term is never multiplied by w",
                "x runs twice in the update (x', x, x); in the published code once until `begin`, here always twice",
                "the second drop of the learning rate, at epoch 150, never happens",
            ),
        )
    },
    notes=("w is 1 for the first 30 % of the epochs (60 of 200)",),
)

IAD_II = Method(
    inner="ce",
    outer="iad-ii",
    summary="IAD with a clean teacher beside the robust one, both on x'",
    cite="Zhu et al., ICLR 2022 (arXiv 2106.04928)",
    recipe=Recipe(start="uniform", epochs=200, milestones=(100, 150)),
    variants={
        "official": Variant(
            {"attack_bn": "train", "schedule": {"milestones": (100,)}},
            (
                "the student's BatchNorm is in train mode while it is attacked",
                "the second drop of the learning rate, at epoch 150, never happens",
            ),
        )
    },
    notes=("reads two teachers: robust and clean", "w is 1 for the first 20 % of the epochs (40 of 200)"),
)

MTARD = Method(
    inner="ce",
    outer="mtard",
    summary="a clean teacher for x, a robust one for x'",
    cite="Zhao et al., ECCV 2022",
    recipe=Recipe(epochs=300, milestones=(215, 260, 285)),
    variants={
        "official": Variant(
            {"outer": {"dynamic": True, "milestones": (215, 260, 285), "log_offset": 1e-5}},
            ("the two weights follow how fast each term falls; their rate drops with the learning rate",),
        ),
        "textbook": Variant(
            {"outer": {"kl_scale": "batchmean"}}, ("the KLs at their textbook scale, ten times larger",)
        ),
    },
    notes=("reads two teachers: robust and clean", "the KL is a tenth of the textbook one (kl_scale = rslad)"),
)

RSLAD = Method(
    inner="kl-teacher",
    outer="rslad",
    summary="robust soft labels of the teacher on x replace every label",
    cite="Zi et al., ICCV 2021",
    recipe=Recipe(epochs=300, milestones=(215, 260, 285)),
    variants={
        "official": Variant(
            {}, ("on CIFAR-10 the published code is the paper variant, but for a start not clipped to [0, 1]",)
        ),
        "textbook": Variant({"outer": {"kl_scale": "batchmean"}}, ("the KL at its textbook scale, ten times larger",)),
    },
    notes=("the KL is a tenth of the textbook one (kl_scale = rslad), as published for both CIFARs",),
)

MMARD = Method(
    inner="kl-teacher-adv",
    outer="mmard",
    summary="the teacher's robust prediction T(x') in both problems, and the triangular relationship (TRD)",
    cite="Wang et al. 2025 (arXiv 2503.06559)",
    recipe=Recipe(epochs=300, schedule="cosine"),
    variants={
        "literal": Variant(
            {"outer": {"kl_scale": "batchmean", "space": "prob", "reduction": "mean"}},
            ("the textbook KL beside TRD as a mean on probabilities; TRD is then nearly inert",),
        ),
    },
    notes=(
        "provisional: the paper leaves the scale of the KL against TRD open; kl_scale = rslad is its ancestors' habit",
        "alpha = 0 is AdaAD (Huang et al., CVPR 2023) with the gradient through both networks",
        "no official code was found",
    ),
)


@hookimpl
def register_methods() -> dict[str, Method]:
    return {
        "nature": NATURE,
        "sat": SAT,
        "trades": TRADES,
        "ard": ARD,
        "iad": IAD,
        "iad-ii": IAD_II,
        "rslad": RSLAD,
        "mtard": MTARD,
        "mmard": MMARD,
    }
