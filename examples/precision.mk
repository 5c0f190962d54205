# The arithmetic of networks: bf16 where the processor has instructions for it (twice as fast there as fp32), else fp32.
PRECISION ?= $(if $(shell grep -m1 -o avx512_bf16 /proc/cpuinfo 2>/dev/null),bf16,fp32)
