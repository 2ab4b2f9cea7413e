"""Robust CIFAR teachers that others trained and published: figures and addresses as in RobustBench's list.

Figures are RobustBench's, for the radius that each entry states. The addresses were copied from that list and from the
authors' pages, and none of them was tried by this project. No SHA-256 and no size is published beside any of them.
"""

from robustdistill.types import Teacher

DRIVE = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"
RAW = "none: images in [0, 1]"
CIFAR10 = "(x - mean) / std inside: mean 0.4914 0.4822 0.4465, std 0.2471 0.2435 0.2616"
CIFAR100 = "(x - mean) / std inside: mean 0.5071 0.4865 0.4409, std 0.2673 0.2564 0.2762"
SMALLER = 0.031  # TRADES' radius: 7.9/255
RADIUS = 8 / 255


def _teacher(
    model: str,
    data: str,
    names: tuple[str, ...],
    accuracies: tuple[float, float],
    sources: tuple[str, ...],
    paper: str,
    *,
    eps: float = RADIUS,
    preprocessing: str = RAW,
    licence: str = "MIT",
    notes: str = "",
) -> Teacher:
    """`accuracies` in %: clean, and under AutoAttack at `eps`. A source without a scheme is a Google Drive id."""
    clean, aa = (round(a / 100, 4) for a in accuracies)
    return Teacher(
        model,
        None,
        data,
        clean=clean,
        robust={"aa": aa},
        eps=eps,
        licence=licence,
        notes=notes,
        names=names,
        sources=tuple(s if ":" in s else DRIVE.format(s) for s in sources),
        preprocessing=preprocessing,
        paper=paper,
    )


TRADES = "Theoretically Principled Trade-off between Robustness and Accuracy (2019), https://arxiv.org/abs/1901.08573"
OAAT = "Scaling Adversarial Training to Large Perturbation Bounds (2022), https://arxiv.org/abs/2210.09852"
LBGAT = "Learnable Boundary Guided Adversarial Training (2020), https://arxiv.org/abs/2011.11164"
LAS = "LAS-AT: Adversarial Training with Learnable Attack Strategy (2022), https://arxiv.org/abs/2203.06616"
GOWAL = (
    "Uncovering the Limits of Adversarial Training against Norm-Bounded Adversarial Examples (2020), "
    "https://arxiv.org/abs/2010.03593"
)
LTD = "LTD: Low Temperature Distillation for Robust Adversarial Training (2021), https://arxiv.org/abs/2111.02331"
DM = "Better Diffusion Models Further Improve Adversarial Training (2023), https://arxiv.org/abs/2302.04638"
HAT = (
    "Helper-based Adversarial Training: Reducing Excessive Margin to Achieve a Better Accuracy vs. Robustness "
    "Trade-off (2021), https://openreview.net/forum?id=BuD2LmNaU3a"
)
DAJAT = (
    "Efficient and Effective Augmentation Strategy for Adversarial Training (2022), https://arxiv.org/abs/2210.15318"
)

BETTER, LOW, EFFICIENT = "Wang2023Better_WRN-28-10", "Chen2021LTD_WRN34_10", "Addepalli2022Efficient_RN18"
WANG = "hf:wzekai99/DM-Improves-AT/checkpoint/{}_linf_wrn28-10.pt"
DEEPMIND = "https://storage.googleapis.com/dm-adversarial-robustness/cifar100_linf_wrn70-16_without.pt"

# The five of MMARD's Table 2 first. Where that table states another figure for AutoAttack, the note has it.
TEACHERS = {
    "wrn-34-10": _teacher(
        "wrn-34-10",
        "cifar10",
        ("Zhang2019Theoretically",),
        (84.92, 53.08),
        ("1hPz9QQwyM7QSuWu-ANG_uXR-29xtL8t_",),
        TRADES,
        eps=SMALLER,
        notes="TRADES' network. Table 2 of MMARD states this AA, the one for 0.031, too",
    ),
    "rn-18": _teacher(
        "rn-18",
        "cifar10",
        ("Addepalli2021Towards_RN18",),
        (80.24, 51.06),
        ("1-1DxecXz5U_xZ54DVdE-GVm71Tiox-Ri",),
        OAAT,
        notes="OA-AT. Table 2 of MMARD states AA 51.53",
    ),
    "wrn-34-20": _teacher(
        "wrn-34-20",
        "cifar10",
        ("Cui2020Learnable_34_20",),
        (88.70, 53.57),
        ("1y7BUxPhQjNlb4w4BUlDyYJIS4w4fsGiS",),
        LBGAT,
        eps=SMALLER,
        notes="LBGAT. Table 2 of MMARD states AA 53.26, perhaps for 8/255",
    ),
    "wrn-70-16": _teacher(
        "wrn-70-16",
        "cifar10",
        ("Jia2022LAS-AT_70_16",),
        (85.66, 57.61),
        ("1-4p-Gr0hjl8wq6qvvTza4x4a5Rmu-Bfr",),
        LAS,
        notes="LAS-AT. Table 2 of MMARD states AA 57.48",
    ),
    "wrn-70-16-swish": _teacher(
        "wrn-70-16-swish",
        "cifar100",
        ("wrn-70-16", "Gowal2020Uncovering"),
        (60.86, 30.03),
        (DEEPMIND, "16I86x2Vv_HCRKROC86G4dQKgO3Po5mT3"),
        GOWAL,
        preprocessing=CIFAR100,
        licence="Apache 2.0",
        notes="DeepMind's, without extra data",
    ),
    "ltd-34-10-c10": _teacher(
        "wrn-34-10",
        "cifar10",
        ("ltd-34-10", LOW),
        (85.21, 56.94),
        ("1-0RoQKYvHLNh7hZ71wJjSit1XtrJQo9D",),
        LTD,
    ),
    "ltd-34-20": _teacher(
        "wrn-34-20",
        "cifar10",
        ("Chen2021LTD_WRN34_20",),
        (86.03, 57.71),
        ("1-5JmY9rapuGwCUc2nPvy7Rb_sn_dHhFm",),
        LTD,
    ),
    "ltd-34-10-c100": _teacher(
        "wrn-34-10",
        "cifar100",
        ("ltd-34-10", LOW),
        (64.07, 30.59),
        ("1-I4NZyULdEWH46b4EaCTxuuRo4eFXsg_",),
        LTD,
    ),
    "wrn-28-10-c10": _teacher(
        "wrn-28-10-swish",
        "cifar10",
        ("wrn-28-10", BETTER),
        (92.44, 67.31),
        (WANG.format("cifar10"), "1-6MYKJdECDVGaWjj6GgqvaT95BGKhUvI"),
        DM,
        preprocessing=CIFAR10,
        notes="trained with 20 million generated images besides",
    ),
    "wrn-28-10-c100": _teacher(
        "wrn-28-10-swish",
        "cifar100",
        ("wrn-28-10", BETTER),
        (72.58, 38.83),
        (WANG.format("cifar100"),),
        DM,
        preprocessing=CIFAR100,
        notes="trained with 50 million generated images besides",
    ),
    "hat-rn-18": _teacher(
        "preact-rn-18-swish",
        "cifar10",
        ("Rade2021Helper_R18_ddpm",),
        (86.86, 57.09),
        ("1f2yJUo-jxCQNk589frzriv6wPyrQEZdX",),
        HAT,
        preprocessing=CIFAR10,
        notes="HAT, a PreAct ResNet-18; trained with a million generated images besides",
    ),
    "dajat-c10": _teacher(
        "rn-18",
        "cifar10",
        ("dajat", EFFICIENT),
        (85.71, 52.48),
        ("1m5vhdzIUUKhDbsZdOG9z76Eyp6f4xe_f",),
        DAJAT,
    ),
    "dajat-c100": _teacher(
        "rn-18",
        "cifar100",
        ("dajat", EFFICIENT),
        (65.45, 27.67),
        ("1-2hnxC7lZOQDqQbum4yPbtRtTND86I5N",),
        DAJAT,
    ),
}
