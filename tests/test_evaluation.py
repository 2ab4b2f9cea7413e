"""The suite: verdicts example by example, inputs that must be refused, models left as they were found."""

import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustdistill as rd
from games import Tiny, images
from robustdistill.builtin.attacks import CLEAN, FGSM, PGD_SAT
from robustdistill.errors import PluginError, UserError
from robustdistill.evaluation.suite import judge
from robustdistill.evaluation.verdict import Verdict, one_class, wilson, worst
from robustdistill.logits import Logits
from robustdistill.registry import default_registry
from robustdistill.types import Attack


def make(name: str, index: int) -> torch.Generator:
    return torch.Generator().manual_seed(index)


def judged(network: nn.Module, attack: Attack = PGD_SAT, n: int = 20, name: str = "attack", **common: Any) -> Verdict:
    x, y = images(n)
    return judge(network, x, y, name, attack, **({"eps": 0.1, "generator": make} | common))


def test_wilson_interval_is_the_textbook_one() -> None:
    low, high = wilson(0.5, 10000)
    assert (high - low) / 2 == pytest.approx(0.0098, abs=1e-4)
    assert wilson(0.0, 20) == (0.0, pytest.approx(0.1611, abs=1e-4))
    assert wilson(1.0, 20) == (pytest.approx(0.8389, abs=1e-4), 1.0)


def test_a_verdict_per_example_and_class() -> None:
    correct, labels = torch.tensor([True, False, True, True]), torch.tensor([0, 0, 2, 2])
    plain = Verdict("a", 0.1, correct, labels, {}, 0.0).plain()
    assert plain["accuracy"] == 0.75
    assert plain["per_class"] == [0.5, None, 1.0]
    assert plain["worst_class"] == 0.5
    assert plain["correct"] == "1011"
    json.dumps(plain)


def test_worst_case_is_the_intersection() -> None:
    labels = torch.zeros(3, dtype=torch.long)
    one = Verdict("a", 0.1, torch.tensor([True, True, False]), labels, {}, 0.0)
    two = Verdict("b", 0.1, torch.tensor([True, False, True]), labels, {}, 0.0)
    assert worst([one, two]).correct.tolist() == [True, False, False]


def test_radius_zero_is_the_clean_accuracy_and_a_large_one_breaks_everything() -> None:
    network = Tiny()
    clean = judged(network, CLEAN)
    assert torch.equal(judged(network, PGD_SAT, eps=0.0).correct, clean.correct)
    x, _ = images(20)
    y = network.eval()(x).argmax(1)
    assert judge(network, x, y, "clean", CLEAN, eps=0.1, generator=make).accuracy == 1
    broken = judge(network, x, y, "pgd", PGD_SAT, eps=0.9, generator=make).accuracy
    assert broken <= judge(network, x, y, "fgsm", FGSM, eps=0.01, generator=make).accuracy
    assert broken == 0


def test_the_network_is_left_as_it_was_found() -> None:
    network = Tiny().train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    rng = torch.get_rng_state()
    judged(network)
    assert network.training
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert torch.equal(rng, torch.get_rng_state())


def test_uint8_and_float_images_agree() -> None:
    network = Tiny()
    raw = (images(20)[0] * 255).round().to(torch.uint8)
    y = images(20)[1]
    a = judge(network, raw, y, "p", PGD_SAT, eps=0.1, generator=make)
    b = judge(network, raw.float() / 255, y, "p", PGD_SAT, eps=0.1, generator=make)
    assert torch.equal(a.correct, b.correct)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x, y: (x * 255, y), "divide by 255"),
        (lambda x, y: (x - 0.5, y), "normalisation belongs inside the model"),
        (lambda x, y: (x * float("nan"), y), r"\[0, 1\]"),
        (lambda x, y: (x[:0], y[:0]), "N > 0"),
        (lambda x, y: (x[0], y), "N, C, H, W"),
        (lambda x, y: (x.long(), y), "uint8 or floats"),
        (lambda x, y: (x, y.int()), "int64"),
        (lambda x, y: (x, y[:-1]), "class indices"),
        (lambda x, y: (x, torch.nn.functional.one_hot(y, 10)), "class indices"),
        (lambda x, y: (x, y + 5), "10 classes"),
        (lambda x, y: (x, y - 5), "classes"),
    ],
)
def test_inputs_that_cannot_be_judged_are_refused(change: Any, sentence: str) -> None:
    x, y = change(*images(20))
    with pytest.raises(UserError, match=sentence):
        judge(Tiny(), x, y, "clean", CLEAN, eps=0.1, generator=make)


class Broken(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.fc = how, nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x.flatten(1))
        return logits * float("nan") if self.how == "nan" else logits[:, 0]


@pytest.mark.parametrize(("how", "sentence"), [("nan", "not finite"), ("shape", "must return logits")])
def test_models_that_cannot_be_judged_are_refused(how: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        judged(Broken(how))


def test_an_attack_that_leaves_the_ball_is_refused() -> None:
    def far(z: Logits, objective: Any, /, *, eps: float, generator: Any = None) -> Tensor:
        return (z.x + 2 * eps).clamp(0, 1)

    with pytest.raises(PluginError, match="left the ball"):
        judged(Tiny(), Attack(far))


def test_warnings_of_an_attack_become_alarms() -> None:
    import warnings

    def warns(z: Logits, objective: Any, /, *, eps: float, generator: Any = None) -> Tensor:
        warnings.warn("gradients look masked", UserWarning, stacklevel=1)
        return z.x

    assert judged(Tiny(), Attack(warns)).alarms == ("gradients look masked",)


@pytest.mark.parametrize("name", ["digits-robust", "digits-clean"])
def test_embedded_teachers_are_as_accurate_as_recorded(name: str) -> None:
    record = default_registry().get("teacher", name)
    assert record.path.stat().st_size < 500_000
    found = {v.attack: v.accuracy for v in rd.evaluate(name, attacks=["fgsm", "pgd-trades"], seed=0)}
    assert found["clean"] == pytest.approx(record.clean, abs=0.006)
    assert found["pgd-trades"] == pytest.approx(record.robust["pgd-trades"], abs=0.012)
    assert found["worst"] <= min(found["fgsm"], found["pgd-trades"])


def test_evaluate_takes_images_or_a_data_set_and_names_what_it_does_not_know() -> None:
    x, y = images(30)
    verdicts = list(rd.evaluate(Tiny(), x, y, attacks=["fgsm"], eps="8/255"))
    assert [v.attack for v in verdicts] == ["clean", "fgsm", "worst"]
    assert verdicts[1].eps == pytest.approx(8 / 255)
    assert len(next(iter(rd.evaluate(Tiny(), attacks=[], data="digits", n=10))).correct) == 10
    for arguments, sentence in (
        ({"attacks": ["fgms"]}, "did you mean 'fgsm'"),
        ({"eps": 8}, "did you mean 8/255"),
        ({"eps": "big"}, "no number"),
        ({"data": "digts"}, "did you mean 'digits'"),
        ({"images": x}, "come together"),
    ):
        with pytest.raises(UserError, match=sentence):
            list(rd.evaluate(Tiny(), **({"data": "digits"} | arguments)))  # type: ignore[arg-type]
    for arguments in ({}, {"images": x, "labels": y}):
        with pytest.raises(UserError, match="does not say what it is for"):
            list(rd.evaluate(Tiny(), **arguments))  # type: ignore[arg-type]


def test_two_names_of_one_attack_leave_the_same_images() -> None:
    one, two = (list(rd.evaluate(Tiny(), data="digits", attacks=[a], n=50))[1] for a in ("pgd", "pgd-sat"))
    assert torch.equal(one.correct, two.correct)


def test_a_network_that_says_one_class_of_every_image_is_told_apart() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :10] * 0 + torch.eye(10)[7]

    (told,) = judged(Constant(), CLEAN, 40, name="clean").alarms
    of_it = int((images(40)[1] == 7).sum())
    assert f"class 7 of every image: right on all {of_it} of that class and on none of the {40 - of_it} others" in told
    assert not judged(Constant(), CLEAN, 19, name="clean").alarms
    assert not judged(Constant(), PGD_SAT, 40).alarms
    correct, labels = torch.tensor([True] * 20 + [False] * 20), torch.arange(40) % 10
    assert not one_class(correct, labels)
    assert not one_class(torch.zeros(40, dtype=torch.bool), labels)
    assert not one_class(labels % 2 == 0, labels % 2)  # two classes
    assert one_class(labels == 0, labels)


def test_a_network_without_parameters_is_judged_where_its_buffers_are() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("classes", torch.arange(10))
            self.register_buffer("weight", torch.linspace(-1, 1, 640, dtype=torch.float64).view(64, 10).sin())

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ self.weight

    assert len(judged(Frozen()).correct) == 20


def test_half_precision_models_are_attacked_in_full_precision() -> None:
    verdicts = list(rd.evaluate(Tiny().bfloat16(), data="digits", attacks=["pgd"], n=20))
    assert verdicts[1].accuracy <= verdicts[0].accuracy


class NanWhereAttacked(Tiny):
    """Finite on the images as they are, not on others."""

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        self.known = known

    def forward(self, x: Tensor) -> Tensor:
        same = torch.equal(x.detach(), self.known)
        return super().forward(x) * (1.0 if same else float("nan"))


def test_logits_that_are_not_finite_count_as_wrong() -> None:
    x, y = images(10)[0], torch.zeros(10, dtype=torch.long)
    verdict = judge(NanWhereAttacked(x), x, y, "fgsm", FGSM, eps=0.1, generator=make)
    assert verdict.accuracy <= 1
    darker = Attack(lambda z, o, /, *, eps, generator: z.x * 0.99)
    moved = judge(NanWhereAttacked(x), x, y, "darker", darker, eps=0.1, generator=make)
    assert moved.accuracy == 0
    assert any("not finite" in a for a in moved.alarms)


def test_modes_of_parts_are_restored_one_by_one() -> None:
    network = Tiny().train()
    network.bn.eval()
    judged(network)
    assert network.training
    assert not network.bn.training


def test_autoattack_joins_by_its_name() -> None:
    x, _ = images(8)
    y = Tiny().eval()(x).argmax(1)
    verdicts = {v.attack: v for v in rd.evaluate(Tiny(), x, y, attacks=["aa"], eps=0.6)}
    assert verdicts["clean"].accuracy == 1
    assert verdicts["aa"].accuracy == 0


@pytest.mark.slow
def test_cifar_weights_are_recognised_and_judged(shared: Path) -> None:
    weights, folder = shared / "teachers" / "rn-18.safetensors", shared / "data" / "cifar10-jpeg"
    verdicts = list(rd.evaluate(weights, attacks=["fgsm"], data="cifar10", data_dir=folder, n=50))
    found = {v.attack: v.accuracy for v in verdicts}
    assert found["clean"] == pytest.approx(0.786, abs=0.18)
    assert found["fgsm"] < found["clean"]


@pytest.mark.slow
def test_the_undefended_control_falls(shared: Path) -> None:
    """pyautoattack's wheel carries a ResNet-18 of natural training: an attack that leaves it standing does not work."""
    spec = find_spec("pyautoattack")
    assert spec
    assert spec.submodule_search_locations
    weights = Path(spec.submodule_search_locations[0]) / "examples" / "model_test.pt"
    folder = shared / "data" / "cifar10-jpeg"
    found = {
        v.attack: v.accuracy
        for v in rd.evaluate(f"rn-18@{weights}", attacks=["pgd"], data="cifar10", data_dir=folder, n=32)
    }
    assert found["clean"] > 0.7
    assert found["pgd"] <= 0.01


def noisy(z: Logits, objective: Any, /, *, eps: float, generator: torch.Generator) -> Tensor:
    return (z.x + eps * torch.rand(z.x.shape, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("attack", [CLEAN, PGD_SAT, Attack(noisy)])
@pytest.mark.parametrize("at_once", [1, 3, 7, 1000])
def test_verdicts_do_not_depend_on_how_many_images_run_at_once(attack: Attack, at_once: int) -> None:
    network = Tiny()
    sizes = set[int]()
    network.register_forward_hook(lambda _, inputs, __: sizes.add(len(inputs[0])))
    whole = judged(network, attack, batch_size=8)
    assert sizes == {8, 4}
    sizes.clear()
    assert torch.equal(judged(network, attack, batch_size=8, at_once=at_once).correct, whole.correct)
    assert max(sizes) == min(at_once, 8)


class Small(Tiny):
    """A network on a device that holds three images at most."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 3:
            raise torch.OutOfMemoryError("no room")
        return super().forward(x)


def test_out_of_memory_halves_the_batch_and_changes_no_verdict() -> None:
    small, roomy = Small(), Tiny()
    small.load_state_dict(roomy.state_dict())
    assert torch.equal(judged(small, batch_size=8).correct, judged(roomy, batch_size=8).correct)
    assert all(p.requires_grad and p.grad is None for p in small.parameters())


def test_an_image_that_does_not_fit_is_out_of_memory() -> None:
    class Full(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError):
        judged(Full())


class Shelf(dict[str, Any]):
    """A `Keep` in memory."""

    def put(self, key: str, tensors: Any) -> None:
        self[key] = tensors


def test_an_interrupted_verdict_goes_on_where_it_was() -> None:
    calls: list[int] = []

    def tired(z: Logits, objective: Any, /, *, eps: float, generator: torch.Generator) -> Tensor:
        calls.append(len(z.x))
        if len(calls) == 3:
            raise KeyboardInterrupt
        warnings.warn(f"call {len(calls)}", UserWarning, stacklevel=1)
        return noisy(z, objective, eps=eps, generator=generator)

    network, shelf = Tiny(), Shelf()
    with pytest.raises(KeyboardInterrupt):
        judged(network, Attack(tired), batch_size=6, keep=shelf)
    assert len(shelf) == 2
    again = judged(network, Attack(tired), batch_size=6, keep=shelf)
    assert calls == [6, 6, 6, 6, 2]
    assert torch.equal(again.correct, judged(network, Attack(noisy), batch_size=6).correct)
    assert again.alarms == ("call 1", "call 2", "call 4", "call 5")


class Cut(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


def test_logits_without_a_gradient_are_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="no attack by gradients"):
        judged(Cut())
    assert judged(Cut(), CLEAN).correct.any()
