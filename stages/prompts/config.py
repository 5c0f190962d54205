"""Settings of `wsss prompts`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import max_side_setting, setting


@dataclass(frozen=True)
class PromptsConfig:
    """Settings of `prompts`."""

    templates: str = setting("imagenet", "Templates to compare: imagenet (OpenAI's 80), a file with one template per "
                             "line, or a single template.", source="CLIP-ES 3.2.1")
    names: str = setting("auto", "Words for the classes and the background, as in `wsss cams clip-es`.")
    background_words: bool = setting(True, "Let the background words compete with the classes.")
    compete: str = setting("present", "Classes that compete in the softmax: those of the image, or all of the index.",
                           choices=("present", "all"))
    pooling: str = setting("average", "Image embedding: the mean of the patch tokens, or the class token.",
                           choices=("average", "class"), source="CLIP-ES A")
    images: str = setting("all", "Images to use: all with at least one tag, or only those with several tags.",
                          choices=("all", "multi-label"), source="CLIP-ES eq. 5: all, k >= 1")
    limit: int = setting(0, "Maximum number of images, taken evenly from the index; 0: all.", low=0)
    max_side: int = max_side_setting()
    precision: str = setting("fp32", "Floating-point precision of all blocks but the last, which is always fp32.",
                             choices=("fp32", "bf16", "fp16"))
    device: str = setting("auto", "Device to compute on: auto, cpu, cuda or cuda:N.")
    threads: int = setting(0, "Number of CPU threads; 0: one per core.", low=0)
