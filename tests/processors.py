"""Run the numerical tests as other processors would compute them: `python tests/processors.py [--jobs 2]`.

oneDNN and ATen choose their kernels by the instruction sets of the processor, and each choice rounds differently. Both
can be limited to older sets. There is one run for each set of this processor except its best, which `make test` covers;
sets that it lacks can't be emulated and are listed. Exits with 1 if a run fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("cams", "kernels", "nets", "parity", "refine", "segment", "pseudo", "train_aff", "train_cls", "train_seg",
         "train_text", "cli/test_gpu_stand_in.py::test_precision")


@dataclass(frozen=True)
class InstructionSet:
    """A level of ONEDNN_MAX_CPU_ISA, the ATEN_CPU_CAPABILITY that goes with it, and the CPU flags it needs."""

    onednn: str
    aten: str
    flags: frozenset[str]


_AVX512 = frozenset(("avx512f", "avx512bw", "avx512dq", "avx512vl"))
# From the oldest to the newest; each includes those before.
SETS = (
    InstructionSet("SSE41", "default", frozenset(("sse4_1",))),
    InstructionSet("AVX2", "avx2", frozenset(("avx2", "fma"))),
    InstructionSet("AVX512_CORE", "avx512", _AVX512),
    InstructionSet("AVX512_CORE_VNNI", "avx512", _AVX512 | {"avx512_vnni"}),
    InstructionSet("AVX512_CORE_BF16", "avx512", _AVX512 | {"avx512_vnni", "avx512_bf16"}),
    InstructionSet("AVX512_CORE_AMX", "avx512", _AVX512 | {"avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16"}),
)


def read_cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the instruction sets of this processor, as named by Linux; empty if there is no such file."""
    if not cpuinfo.exists():
        return frozenset()
    for line in cpuinfo.read_text(encoding="utf-8").splitlines():
        name, _, flags = line.partition(":")
        if name.strip() == "flags":
            return frozenset(flags.split())
    return frozenset()


def select_sets(flags: frozenset[str]) -> tuple[list[InstructionSet], list[InstructionSet]]:
    """Return (sets to emulate, sets that a processor with `flags` lacks); its best set is in neither."""
    available = [candidate for candidate in SETS if candidate.flags <= flags]
    return available[:-1], [candidate for candidate in SETS if candidate not in available]


def run_tests(instructions: InstructionSet, jobs: int) -> bool:
    """Run the numerical tests limited to an instruction set; return whether all passed."""
    limits = {"ONEDNN_MAX_CPU_ISA": instructions.onednn, "ATEN_CPU_CAPABILITY": instructions.aten,
              "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(jobs), "--dist", "worksteal", "--durations=5",
               *(f"tests/{path}" for path in TESTS)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **limits}, check=False).returncode == 0


def main() -> int:
    """Run all emulations; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2, help="Number of processes of each test run.")
    jobs = parser.parse_args().jobs
    emulated, missing = select_sets(read_cpu_flags())
    failed = []
    for instructions in emulated:
        print(f"== oneDNN {instructions.onednn}, ATen {instructions.aten}", flush=True)
        if not run_tests(instructions, jobs):
            failed.append(instructions.onednn)
    print(f"emulated: {', '.join(instructions.onednn for instructions in emulated) or 'none'}; "
          f"not available on this processor: {', '.join(instructions.onednn for instructions in missing) or 'none'}")
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
