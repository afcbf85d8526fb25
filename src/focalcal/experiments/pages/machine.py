"""What a machine is, in words for a page."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def machine() -> dict[str, str]:
    """Return the processor, its cores, memory and graphics processors, and the operating system.

    Examples
    --------
    >>> list(machine())
    ['Processor', 'Memory', 'GPU', 'System']
    """
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "Processor": f"{_processor()}, {os.cpu_count()} logical cores",
        "Memory": f"{pages / 2**30:.0f} GiB" if pages else "unknown",
        "GPU": ", ".join(gpus) or "none",
        "System": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        for line in listed.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
