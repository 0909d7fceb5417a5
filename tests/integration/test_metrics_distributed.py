"""avg@k, pass@k, maj@k and intervals over two processes whose batches differ in number and size."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from capo_lit.evaluation.at_k import AvgAtK, MajAtK, PassAtK
from capo_lit.evaluation.interval import MeanInterval
from tests.support.ranks import run_two

NAN = float("nan")
# Three problems on rank 0 in two updates of different width, one on rank 1.
BATCHES = {
    0: [[[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], [[1.0, 1.0, 0.0]]],
    1: [[[1.0, NAN, NAN, NAN]]],
}


def worker(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    average, passed, idle = AvgAtK(), PassAtK(2), AvgAtK()
    for batch in BATCHES[rank]:
        average.update(torch.tensor(batch))
        passed.update(torch.tensor(batch))
    majority, greedy, lonely = MajAtK(), MeanInterval(), MeanInterval()
    greedy.update(torch.tensor([[0.0, 1.0], [1.0]][rank]))
    majority.update([["7", "7", "8"]], [[float(rank), float(rank), 0.0]])
    if rank == 0:
        idle.update(torch.tensor([[1.0, 0.0]]))
        lonely.update(torch.tensor([1.0, 0.0, 1.0]))
    intervals = {"greedy": greedy.compute(), "lonely": lonely.compute(), "majority": majority.compute()}
    result = {"average": average.compute(), "passed": passed.compute(), "idle": idle.compute(), **intervals}
    with passed.sync_context():
        result["left_out"], result["unknown"] = passed.left_out.clone(), passed.unknown.clone()
    torch.save(result, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
# The second rank's `idle` has no update; torchmetrics warns, and the sum over ranks is right all the same.
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_report_the_mean_over_all_problems(tmp_path: Path) -> None:
    run_two(worker, str(tmp_path))
    for rank in (0, 1):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        # avg: (1/4 + 0 + 2/3 + 1/1) / 4 = 23/48; the mean of the two ranks' means would be (11/36 + 1) / 2
        assert result["average"].item() == pytest.approx(23 / 48, abs=1e-6)
        # pass@2: 1 - 3/6 = 1/2, 0, 1 - 0/3 = 1; rank 1's problem has one known sample and is left out
        assert result["passed"].item() == pytest.approx(0.5, abs=1e-6)
        assert (result["left_out"].item(), result["unknown"].item()) == (1, 3)
        assert result["idle"].item() == pytest.approx(0.5)
        # The values 0, 1, 1 on every rank, however they were dealt: mean 2/3, interval from 0 to 1.
        assert result["greedy"].tolist() == pytest.approx([2 / 3, 0.0, 1.0])
        assert result["lonely"].tolist() == pytest.approx([2 / 3, 0.0, 1.0])
        assert result["majority"].item() == 0.5
