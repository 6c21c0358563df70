"""What the benchmarks share: clocks that wait for the device, and the bandwidth of a plain copy."""

import platform
import time
from collections.abc import Callable

import torch


def synchronize(device: str) -> None:
    """Wait for the work queued on the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], repeats: int, device: str = "cpu") -> tuple[float, float]:
    """Least wall time and least processor time of one run, after a warm-up."""
    run()
    synchronize(device)
    times = []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        run()
        synchronize(device)
        times.append((time.perf_counter() - wall, time.process_time() - processor))
    walls, processors = zip(*times, strict=True)
    return min(walls), min(processors)


def copy_bandwidth(device: str) -> float:
    """Bytes a second that a copy of 256 MB reads and writes, the larger of ten."""
    source = torch.zeros(64 * 2**20, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), 10, device)[0]


def fresh_copy_bandwidth() -> float:
    """As :func:`copy_bandwidth`, of `source.clone()` on the CPU: into memory that was never touched."""
    source = torch.zeros(64 * 2**20)
    return 2 * source.nbytes / seconds(source.clone, 10)[0]


def machine(device: str) -> str:
    """The line that a result is worth nothing without."""
    what = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    return f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, {what}"
