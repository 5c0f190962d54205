"""Settings of `wsss features`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class FeaturesConfig:
    """Settings of `features`."""

    layer: str = setting("", "Pool this layer's maps or tokens, by its name in the network; empty: what the network "
                         "pools itself, or its last map.")
    pool: str = setting("auto", "The class token behind the final norm, or the mean of the patches or cells; auto: "
                        "what the network's classifier reads, with --layer the mean.",
                        choices=("auto", "class-token", "mean"), source="Sub-category Teaching: class-token")
    size: int = setting(0, "Squash the image to a square of this side; 0: keep its size, rounded up to whole cells.",
                        low=0, unit="pixels", source="Sub-category Teaching: 224")
    mean: tuple[float, ...] = setting((), "Mean of the input, in [0, 1]; empty: what the network wants.", counts=(0, 3))
    std: tuple[float, ...] = setting((), "Standard deviation of the input; empty as for --mean.", counts=(0, 3))
    batch_size: int = setting(8, "Images of equal size computed at once.", low=1)
    shard_size: int = setting(4096, "Images in a shard.", low=1)
    precision: str = setting("fp32", "Arithmetic of the network.", choices=("fp32", "bf16", "fp16"))
    device: str = setting("auto", "auto, cpu, cuda or cuda:N.")
    threads: int = setting(1, "CPU threads of each worker.", low=1)
