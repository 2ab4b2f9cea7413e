"""The table of inputs that are refused: what is given, where, the exit code, and what the sentence says.

python tests/refusals.py      writes the table of docs/reliability.md anew
"""

import contextlib
import io
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustdistill as rd
from games import Tiny, images, teacher
from robustdistill import assemble
from robustdistill.cli import main
from robustdistill.errors import RobustDistillError
from robustdistill.plugins import Plugin
from robustdistill.registry import Registry, default_registry
from robustdistill.spec import Node
from robustdistill.store.weights import save_weights
from robustdistill.types import Split, Splits, Teacher

DOCS = Path(__file__).parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- table of tests/refusals.py -->\n", "<!-- end of the table -->"
SPEC: dict[str, Any] = {
    "method": "rslad",
    "epochs": 1,
    "limit_batches": 4,
    "batch_size": 128,
    "student": {"name": "digits-net", "width": 4},
    "attack": {"steps": 1, "step": "eps"},
    "select": {"n": 20},
    "device": "cpu",
}
BROUGHT = Path(tempfile.mkdtemp(prefix="robustdistill-")) / "t.safetensors"
RENAMED = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]


@dataclass(frozen=True)
class Row:
    """One input: in words, through which entry, the exit code, a part of the sentence, and how to give it."""

    what: str
    where: str
    code: int
    says: str
    give: Callable[[], object]


# ---- networks that are not what they should be --------------------------------------------------------------
class Wrapped(nn.Module):
    """digits-clean behind a mistake: `wrong(network, x)`."""

    def __init__(self, wrong: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.wrong = digits_clean(), wrong

    def forward(self, x: Tensor) -> Tensor:
        return self.wrong(self.network, x)


def digits_clean() -> nn.Module:
    registry = default_registry()
    return assemble.build_teacher(Node(name="digits-clean"), registry.get("dataset", "digits"), registry, "digits")


WRONG: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "renamed": lambda net, x: net(x)[:, RENAMED],
    "255": lambda net, x: net(x * 255),
    "1/255": lambda net, x: net(x / 255),
    "twice": lambda net, x: net((x - 0.3) / 0.38),
    "dark": lambda net, x: net(x * 0),
    "probabilities": lambda net, x: net(x).softmax(1),
    "nan": lambda net, x: net(x) / 0 * 0,
    "logarithms": lambda net, x: net(x).log_softmax(1),
    "right": lambda net, x: net(x),
}


def wrong(how: str) -> nn.Module:
    return Wrapped(WRONG[how])


class Single(nn.Module):
    """BatchNorm over single values: no statistics of one image."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn, self.out = nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.bn(self.fc(x.flatten(1))))
        return logits


def frozen_in_inference() -> nn.Module:
    with torch.inference_mode():
        return Tiny()


def exported(training: bool = False, any_batch: bool = True) -> nn.Module:
    shapes = ({0: torch.export.Dim("batch")},) if any_batch else None
    return torch.export.export(Tiny().train(training), (torch.rand(4, 1, 8, 8),), dynamic_shapes=shapes).module()


def linear(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


@cache
def registry_with(how: str) -> Registry:
    """The built-ins and the teacher `t`, digits-clean behind a mistake, with the accuracy that digits-clean has."""
    known = default_registry().get("teacher", "digits-clean")
    model = replace(default_registry().get("model", "digits-net"), build=_builder(how), recognise=None)
    weights = {f"network.{k}": v for k, v in digits_clean().state_dict().items()}
    save_weights(BROUGHT, weights)
    entry = Teacher("mistaken", BROUGHT, "digits", clean=known.clean)
    more = {
        "register_models": {"mistaken": model, "brought": model},
        "register_teachers": {"t": entry, "brought": replace(entry, path=None)},
    }
    return Registry([*default_registry().plugins, Plugin("x", "x", "1", more)])


def _builder(how: str) -> Callable[..., nn.Module]:
    def build(*, num_classes: int, in_channels: int) -> nn.Module:
        return wrong(how)

    return build


def data_with(change: Callable[[Split], Split]) -> Registry:
    """The built-ins and the data set `bad`: the digits, with their training images changed."""
    digits = default_registry().get("dataset", "digits")

    def load(directory: Path | None) -> Splits:
        splits = digits.load(directory)
        return replace(splits, train=change(splits.train))

    more = {"register_datasets": {"bad": replace(digits, load=load)}}
    return Registry([*default_registry().plugins, Plugin("x", "x", "1", more)])


# ---- how they are given ---------------------------------------------------------------------------------------
def train(what: str, says: str, code: int = 2, *, stated: str = "", **given: Any) -> Row:
    """`rd.train` of SPEC with `given`; `student`, `teacher_` and `registry` are called first."""

    def give() -> object:
        spec, more = dict(given), dict[str, Any]()
        for name in ("student_", "teacher_", "registry_"):
            if name in spec:
                more[name.strip("_")] = spec.pop(name)()
        if stated:
            more["registry"] = registry_with(stated)
        return list(rd.train(SPEC | spec, out="run", **more))

    return Row(what, "`rd.train`", code, says, give)


def evaluate(
    what: str, says: str, change: Callable[[Any, Any], tuple[Any, Any]] = lambda x, y: (x, y), **more: Any
) -> Row:
    """`rd.evaluate` of a small network on 20 images of the digits' size, changed."""

    def give() -> object:
        how = {"attacks": ["fgsm"], "eps": 0.1, "model": Tiny} | more
        return list(rd.evaluate(how.pop("model")(), *change(*images(20)), **how))

    return Row(what, "`rd.evaluate`", 2, says, give)


def command(what: str, says: str, line: str, code: int = 2) -> Row:
    return Row(what, f"`{line}`", code, says, partial(_command, line))


class Said(RobustDistillError):
    """What a command printed on stderr before it ended with `exit_code`."""


def _command(line: str) -> object:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        main(line.split())
    if end.value.code:
        assert not out.getvalue()
        said = Said(err.getvalue().splitlines()[-1])  # after what was told before, if anything
        said.exit_code = int(end.value.code)
        raise said
    return out.getvalue()


def labels_of(split: Split, change: Callable[[Tensor], Tensor]) -> Split:
    return replace(split, labels=change(split.labels))


def pixels_of(split: Split, change: Callable[[Tensor], Tensor]) -> Split:
    return replace(split, images=change(split.images))


def bad(what: str, says: str, change: Callable[[Split], Split]) -> Row:
    return train(what, says, 7, data="bad", teacher_=teacher, registry_=lambda: data_with(change))


ONE_HOT = partial(nn.functional.one_hot, num_classes=10)
IMAGES = [
    evaluate("pixels from 0 to 255, as floats", "divide by 255", lambda x, y: (x * 255, y)),
    evaluate("normalised images", "normalisation belongs inside the model", lambda x, y: (x - 0.5, y)),
    evaluate("uint8 images divided by 255 twice", "were divided by 255 twice", lambda x, y: (x / 255, y)),
    evaluate("[0, 1] cast to uint8", "all pixels are 0 or 1", lambda x, y: (x.round().to(torch.uint8), y)),
    evaluate(
        "a NaN pixel",
        "1 of 1,280 are NaN or infinite",
        lambda x, y: (x.flatten(0).index_fill(0, torch.tensor(3), torch.nan).view(x.shape), y),
    ),
    evaluate("infinite pixels", "are NaN or infinite", lambda x, y: (x / 0, y)),
    evaluate("integers that are not uint8", "uint8 or floats in [0, 1]; got torch.int64", lambda x, y: (x.long(), y)),
    evaluate("another number of colours", "does not take images [3, 8, 8]", lambda x, y: (x.repeat(1, 3, 1, 1), y)),
    evaluate("another size", "does not take images [1, 9, 9]", lambda x, y: (nn.functional.pad(x, (0, 1, 0, 1)), y)),
    evaluate(
        "another size than the data set's, where the network takes any",
        "images of digits are [1, 8, 8]; got [1, 9, 9]",
        lambda x, y: (nn.functional.pad(x, (0, 1, 0, 1)), y),
        model=lambda: nn.Sequential(nn.AdaptiveAvgPool2d(8), *linear(10)),
        data="digits",
    ),
    evaluate("a single image without its batch", "images must be [N, C, H, W]", lambda x, y: (x[0], y)),
    evaluate("no images", "N > 0; got [0, 1, 8, 8]", lambda x, y: (x[:0], y[:0])),
    evaluate("a numpy array", "got ndarray: use torch.as_tensor(images)", lambda x, y: (x.numpy(), y)),
    evaluate("images without labels", "come together", lambda x, y: (x, None)),
]
LABELS = [
    evaluate(
        "labels beyond the classes", "reach from 5 to 14 and the model has 10 classes", lambda x, y: (x, y % 10 + 5)
    ),
    evaluate("negative labels", "numbered from 0", lambda x, y: (x, y - 5)),
    evaluate("one-hot labels", "one-hot? use labels.argmax(dim=1)", lambda x, y: (x, ONE_HOT(y))),
    evaluate("float labels", "of dtype int64; got [20] of torch.float32", lambda x, y: (x, y.float())),
    evaluate("bool labels", "of dtype int64; got [20] of torch.bool", lambda x, y: (x, y > 4)),
    evaluate("a list of labels", "got list: use torch.as_tensor(labels)", lambda x, y: (x, y.tolist())),
    evaluate("fewer labels than images", "20 class indices of dtype int64; got [19]", lambda x, y: (x, y[:-1])),
]
DATA = [
    bad("a data set of floats", "must be uint8 [N, 1, 8, 8]", lambda s: pixels_of(s, lambda v: v / 255)),
    bad("a data set of another size", "must be uint8 [N, 1, 8, 8]", lambda s: pixels_of(s, lambda v: v[..., :7])),
    bad("a data set of [0, 1] cast to uint8", "are all 0 or 1", lambda s: pixels_of(s, lambda v: (v > 99).to(v.dtype))),
    bad("an empty data set", "got [0, 1, 8, 8]", lambda s: Split(s.images[:0], s.labels[:0])),
    bad(
        "a data set with labels from 1", "labels from 1 to 10; expected 0 to 9", lambda s: labels_of(s, lambda v: v + 1)
    ),
    bad("a data set with negative labels", "labels from -1 to 8", lambda s: labels_of(s, lambda v: v - 1)),
    bad("a data set with one-hot labels", "need 1257 labels of dtype int64", lambda s: labels_of(s, ONE_HOT)),
    bad("a data set with float labels", "of torch.float32", lambda s: labels_of(s, lambda v: v.float())),
    bad("a data set with fewer labels than images", "got [1256]", lambda s: labels_of(s, lambda v: v[1:])),
]
NETWORKS = [
    train(
        "a teacher of other classes", "shape [2, 7] for 2 images; the data has 10 classes", teacher_=partial(linear, 7)
    ),
    train("a student of other classes", "the data has 10 classes", method="sat", student_=partial(linear, 7)),
    train(
        "a teacher that gives probabilities",
        "gives probabilities, not logits",
        teacher_=partial(wrong, "probabilities"),
    ),
    train("a teacher that gives NaN", "not finite on 500 of 500 training images", teacher_=partial(wrong, "nan")),
    train(
        "a teacher whose classes are in another order", "classes are in another order", teacher="t", stated="renamed"
    ),
    train(
        "a teacher that makes pixels 255 times larger", "255 times larger than they should", teacher="t", stated="255"
    ),
    train("a teacher that takes pixels from 0 to 255", "takes pixels from 0 to 255", teacher="t", stated="1/255"),
    train("a teacher that normalises twice", "it normalises images twice", teacher="t", stated="twice"),
    train("a teacher that sees nothing", "it names one class for all of them", teacher="t", stated="dark"),
    train(
        "a file far below what is stated for its name",
        "give its file alone: --teacher FILE",
        teacher=f"brought@{BROUGHT}",
        stated="renamed",
    ),
    train(
        "a student that is its own teacher", "its own teacher", **dict.fromkeys(("student_", "teacher_"), cache(Tiny))
    ),
    train("a name where a module belongs", "teacher 'robust' must be a torch.nn.Module; got str", teacher_=lambda: "x"),
    train("a network made under inference_mode", "made under torch.inference_mode()", student_=frozen_in_inference),
    train("a student that cannot learn from one image", "from a batch of one image", student_=Single, batch_size=1),
    train(
        "a last batch of one image", "1,257 images in batches of 8", student_=Single, batch_size=8, limit_batches=None
    ),
    evaluate("a model of other classes", "the model has 7 classes", model=partial(linear, 7)),
    train("an exported student", "give the module that was exported", student_=exported),
    train("an exported teacher", "give the module that was exported", teacher_=exported),
    evaluate("a model exported in train mode", "call .eval() before", model=partial(exported, training=True)),
    evaluate(
        "a model exported for one size of batch", "for batches of 4 alone", model=partial(exported, any_batch=False)
    ),
    evaluate("a model made under inference_mode", "made under torch.inference_mode()", model=frozen_in_inference),
]
NUMBERS = [
    command("eps in units of 255", "did you mean 8/255?", "train --eps 8"),
    command("eps 0 in training", "eps = '0': input should be greater than 0", "train --eps 0"),
    command("a negative eps", "eps = '-0.1': input should be greater than 0", "train --eps=-0.1"),
    command("eps NaN", "eps = 'nan': input should be a finite number", "train --eps nan"),
    command("eps in units of 255, in eval", "did you mean 8/255?", "eval digits-robust --eps 8"),
    command("a negative eps, in eval", "eps -0.1 is no radius", "eval digits-robust --eps=-0.1"),
    command("eps NaN, in eval", "eps nan is no radius", "eval digits-robust --eps nan"),
    command(
        "a step size that is none", "write a number, '2/255', 'eps/4'", "train --set attack.step=fast --print-spec"
    ),
    command("step size 0", "must be more than 0", "train --set attack.step=0 --print-spec"),
    command("a negative step size", "must be more than 0", "train --set attack.step=-0.1 --print-spec"),
    command("a relative step size of 0", "must be more than 0", "train --set attack.step=0*eps --print-spec"),
    command("an infinite step size", "must be more than 0", "train --set attack.step=inf --print-spec"),
    command("fewer than no steps", "attack.steps = -1", "train --steps=-1 --print-spec"),
    command("no steps and no start", "moves nothing", "train --steps 0 --set attack.start=none --print-spec"),
    command("true where a number belongs", "epochs = True: a number belongs here", "train --set epochs=true"),
    command("a learning rate of 0", "optim.lr = 0.0: input should be greater than 0", "train --lr 0"),
    command(
        "Nesterov's momentum without any", "nesterov needs a momentum", "train --set optim={nesterov=true,momentum=0}"
    ),
    command(
        "average.decay of 1",
        "average.decay = 1: input should be less than 1",
        "train --set average={name='ema',decay=1}",
    ),
    command("average.decay of 0", "average.decay = 0: input", "train --set average={name='ema',decay=0}"),
    command(
        "milestones out of order",
        "each later than the one before",
        "train --set schedule={name='multistep',milestones=[9,4]}",
    ),
    command("a negative milestone", "epochs from 0 on", "train --set schedule={name='multistep',milestones=[-1]}"),
    command("batches of no image", "batch_size = 0: input", "train --batch-size 0"),
]
COMBINATIONS = [
    command("an unknown key", "did you mean 'epochs'?", "train --set epoch=3"),
    command("an unknown key of a unit", "did you mean 'alpha'?", "train --set outer.alhpa=1"),
    command("an unknown name", "did you mean 'mmard'?", "train --method mmrad"),
    command(
        "one teacher where two are read", "reads the teacher 'clean'", "train --method mtard --teacher digits-robust"
    ),
    command("a teacher of a role that nobody reads", "reads no teacher 'clean'", "train --teacher clean=digits-clean"),
    command("flags of an attack that is not made", "ascends nothing", "train --method nature --steps 3"),
    command("an attack that only judges", "cannot train", "train --set attack=aa --print-spec"),
    command("two modifiers that replace the update", "both replace the outer update", "train --with awp,awp"),
    command("an empty list of seeds", "is no list of seeds", "train --seeds ,"),
    command("a seed twice", "names a seed twice", "train --seeds 1,2,1"),
    command("a seed and seeds", "exclude each other", "train --seed 1 --seeds 1,2"),
    command("--resume with other flags", "takes no --lr; leave them out", "train --resume run --lr 0.1"),
    command("an unknown device", "'gpu' is no device", "train --device gpu"),
    command("a CUDA device that is not there", "use --device cpu", "train --device cuda:99"),
    command("a folder for data inside the package", "takes no --data-dir", "train --data digits --data-dir ."),
    command("a file as --out", "is a file, not a directory", "train --out file.txt"),
    command("an --out that holds something else", "holds files that are no run", "train --out full"),
    evaluate("a text as the list of attacks", "write attacks=['fgsm', 'pgd']", attacks="fgsm,pgd"),
    evaluate("no image to judge", "n = 0: at least one image", n=0),
    evaluate("batches of no image, in eval", "batch_size = 0: at least one image", batch_size=0),
    command(
        "AutoAttack's reference for fewer than four classes",
        "needs at least 4 classes",
        "eval three.safetensors --data three --attacks aa --aa-engine reference",
    ),
]
ROWS = [*IMAGES, *LABELS, *DATA, *NETWORKS, *NUMBERS, *COMBINATIONS]


def table() -> str:
    """The rows in Markdown."""
    rows = (f"| {r.what} | {r.where} | {r.code} | {r.says} |" for r in ROWS)
    return (
        "\n".join(["| input | given to | exit code | the sentence says |", "| --- | --- | ---: | --- |", *rows]) + "\n"
    )


def written(page: str) -> str:
    """`page` with the table and its length in their places."""
    page = re.sub(re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: BEGIN + table() + END, page, flags=re.DOTALL)
    return re.sub(r"\b\d+ inputs that are refused", f"{len(ROWS)} inputs that are refused", page)


if __name__ == "__main__":
    DOCS.write_text(written(DOCS.read_text(encoding="utf-8")), encoding="utf-8")
