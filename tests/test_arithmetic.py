"""The formats of float32: what a search may use and what a verdict may not. (A CPU tells what is asked of a GPU.)"""

import pytest
import torch
from torch import backends

from robustdistill.arithmetic import quick_convolutions, true_float32

GPU = torch.device("cuda")


def convolutions() -> tuple[bool, str]:
    return backends.cudnn.allow_tf32, backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]


def test_a_search_on_a_gpu_has_the_format_of_outside() -> None:
    outside = convolutions()
    with true_float32():
        inside = convolutions()
        with quick_convolutions(GPU) as quick:
            assert quick
            assert convolutions() == outside
            assert torch.get_float32_matmul_precision() == "highest"
            assert backends.cudnn.deterministic
        assert convolutions() == inside == (False, "ieee")
    assert convolutions() == outside == (True, "tf32")


def test_it_is_put_back_after_an_error() -> None:
    with true_float32():
        inside = convolutions()
        with pytest.raises(ZeroDivisionError), quick_convolutions(GPU):
            1 / 0  # noqa: B018
        assert convolutions() == inside


def test_no_search_is_shorter_than_what_its_user_allows() -> None:
    with torch.backends.cudnn.flags(allow_tf32=False), true_float32(), quick_convolutions(GPU) as quick:
        assert not quick
        assert convolutions() == (False, "ieee")
    with true_float32(), true_float32(), quick_convolutions(GPU) as quick:  # a run with deterministic = true
        assert not quick
    with quick_convolutions(GPU) as quick:
        assert not quick
    with true_float32(), quick_convolutions(torch.device("cpu")) as quick:
        assert not quick
        assert convolutions() == (False, "ieee")
