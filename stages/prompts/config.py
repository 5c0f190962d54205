"""Settings of `wsss prompts`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class PromptsConfig:
    """Settings of `prompts`."""

    templates: str = setting("imagenet", "The templates to compare: imagenet (OpenAI's 80), a file with one a line, or "
                             "one template.", source="CLIP-ES 3.2.1")
    names: str = setting("auto", "Words for the classes and the background, as for cams clip-es.")
    background_words: bool = setting(True, "Let the background words compete.")
    compete: str = setting("present", "Which classes compete: those of the image, or all of the set.",
                           choices=("present", "all"))
    pooling: str = setting("average", "The embedding: mean of the patches, or the class token.",
                           choices=("average", "class"), source="CLIP-ES A")
    images: str = setting("all", "The images of the sum: every image with a tag, or those with two tags or more.",
                          choices=("all", "multi-label"), source="CLIP-ES eq. 5: all, k >= 1")
    limit: int = setting(0, "Look at so many of these images, evenly over the index; 0: at all.", low=0)
    precision: str = setting("fp32", "Arithmetic of all blocks but the last, which is fp32.",
                             choices=("fp32", "bf16", "fp16"))
    device: str = setting("auto", "auto, cpu, cuda or cuda:N.")
    threads: int = setting(0, "CPU threads; 0: all cores.", low=0)
