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
    return {"nature": NATURE, "sat": SAT, "rslad": RSLAD, "mmard": MMARD}
