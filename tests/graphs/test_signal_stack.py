"""OpenVINO leaves the thread that loads it the signal stack that it had."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vitrail.graphs import OpenVINORunner, quantise_graph
from vitrail.graphs.int8 import PLANS
from vitrail.graphs.signal_stack import signal_stack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="OpenVINO changes signal stacks on Linux")
openvino = pytest.importorskip("openvino")

ELSEWHERE = """
import os, signal, sys, threading
from pathlib import Path
from vitrail.graphs import OpenVINORunner

runners = [OpenVINORunner(Path(sys.argv[1]), "fp32") for _ in range(2)]
if sys.argv[2] == "thread":
    freeing = threading.Thread(target=runners.clear)
    freeing.start()
    freeing.join()
else:
    del runners[0], runners[0]
signal.signal(signal.SIGUSR1, lambda *_: print("heard"))  # SIGCHLD would also tell of what torch has started
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("graph") / "graph.xml"
    images = openvino.opset13.parameter([1, 4], np.float32, name="images")
    weights = openvino.opset13.constant(np.eye(4, dtype=np.float32))
    product = openvino.opset13.matmul(images, weights, False, False)
    product.output(0).set_names({"logits"})
    openvino.save_model(openvino.Model([product], [images]), file)
    return file


@pytest.mark.parametrize("how", ["thread", "oldest first"])
def test_a_signal_is_survived_after_runners_are_freed(graph: Path, how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", ELSEWHERE, str(graph), how], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, "heard"), done.stderr


def test_quantising_leaves_the_stack_too(graph: Path) -> None:
    pytest.importorskip("nncf")
    before = signal_stack()
    quantise_graph(graph, torch.randn(3, 4), PLANS[0])
    runner = OpenVINORunner(graph, "fp32")
    assert (signal_stack().start, signal_stack().size) == (before.start, before.size)
    assert torch.equal(runner(torch.ones(1, 4), ["logits"])[0], torch.ones(1, 4))
