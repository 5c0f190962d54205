"""`segment corrclip` against values of the released code, on a seeded CLIP and a seeded DINO.

The released code takes the smallest id of a window for the pixels without a region, and pads windows to 56 pixels.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch.nn import functional as F

from conftest import TESTS, Reference
from stages.data.augment import IMAGENET_MEAN, IMAGENET_STD
from stages.kernels.region_scope import group_close, merge_regions
from stages.kernels.region_vote import vote_in_regions
from stages.kernels.sliding_windows import SlidingWindows
from stages.nets.clip_vision import VisionTower
from stages.nets.self_similarity import SelfSimilarity
from stages.segment.config import CorrclipConfig
from stages.segment.corrclip import combine_parts, compute_parts, embed_window, resize_ids
from stages.segment.dense_text import WordVectors, select_best_words

FOLDER = Path(os.environ.get("WSSS_ORACLES") or TESTS / "reference") / "beyond" / "corrclip"
RELEASED = CorrclipConfig(as_released=True)
NOT_CASES = {"text", "vote", "sepl", "weights_clip", "weights_dino"}
CASES = [name for name in Reference(FOLDER.parents[1], complete=False).cases("beyond/corrclip/*")
         if name.rpartition("/")[2] not in NOT_CASES]
HEAD_WIDTH = 16
# CLIP's mean and standard deviation as the configuration of the released code rounds them, for pixels up to 255.
MMSEGMENTATION = ((122.771, 116.746, 104.094), (68.501, 66.632, 70.323))
# With tags, CLIP's own constants are used.
TAGGED = tuple([255 * value for value in values] for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))


def read_weights(name: str) -> dict[str, torch.Tensor]:
    with np.load(FOLDER / f"weights_{name}.npz") as values:
        return {key: torch.from_numpy(values[key].astype(np.float32)) for key in values.files}


@lru_cache(maxsize=1)
def build_tower() -> VisionTower:
    from open_clip.transformer import VisionTransformer
    state = {key.removeprefix("visual."): value for key, value in read_weights("clip").items()
             if key.startswith("visual.")}
    width, patch = state["conv1.weight"].shape[0], state["conv1.weight"].shape[-1]
    side = round((len(state["positional_embedding"]) - 1) ** 0.5) * patch
    layers = 1 + max(int(key.split(".")[2]) for key in state if "resblocks" in key)
    from open_clip.transformer import QuickGELU
    visual = VisionTransformer(side, patch, width, layers, width // HEAD_WIDTH, 4.0, output_dim=state["proj"].shape[1],
                               act_layer=QuickGELU)
    visual.load_state_dict(state)
    return VisionTower(visual, positions="beside")


@lru_cache(maxsize=1)
def build_network() -> SelfSimilarity:
    from timm.models.vision_transformer import VisionTransformer
    state = read_weights("dino")
    width, _, _, patch = state["patch_embed.proj.weight"].shape
    side = round((state["pos_embed"].shape[1] - 1) ** 0.5) * patch
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks"))
    model = VisionTransformer(side, patch, embed_dim=width, depth=depth, num_heads=width // HEAD_WIDTH,
                              num_classes=0, dynamic_img_size=True)
    model.load_state_dict(state)
    return SelfSimilarity("dino", model.eval().requires_grad_(False), OPENAI_DATASET_MEAN, OPENAI_DATASET_STD,
                          (IMAGENET_MEAN, IMAGENET_STD))


def cut_window(values, number: int) -> tuple[torch.Tensor, np.ndarray]:
    """Return a window of a case (3, H, W), normalised for CLIP and padded, and its regions, padded with 10000."""
    top, left, bottom, right = values[f"w{number}_box"].tolist()
    before_x, after_x, before_y, after_y = values[f"w{number}_pad"].tolist()
    statistics = TAGGED if "allowed" in values else MMSEGMENTATION
    mean, std = (torch.tensor(part).view(-1, 1, 1) for part in statistics)
    image, ids = ((values["resized"], values["regions_resized"]) if "resized" in values
                  else (values["image"], values["regions"]))
    image = torch.from_numpy(image[top:bottom, left:right]).permute(2, 0, 1)
    window = F.pad((image - mean) / std, (before_x, after_x, before_y, after_y))
    regions = np.pad(ids[top:bottom, left:right], ((before_y, after_y), (before_x, after_x)),
                     constant_values=10000)
    return window, regions


def list_windows(cases):
    return [(case, number) for case in cases
            for number in range(int(Reference(FOLDER.parents[1], complete=False)(case)["n_windows"]))]


@pytest.mark.parametrize(("case", "number"), list_windows(CASES))
def test_features_of_a_window_match(reference, case, number):
    values = reference(case)
    window, regions = cut_window(values, number)
    if f"w{number}_clip_input" in values:
        np.testing.assert_allclose(window, values[f"w{number}_clip_input"], atol=2e-6)
    network, tower = build_network(), build_tower()
    features = network.compute_features(window[None])[0].flatten(1).T.numpy()
    parts, grid = compute_parts(tower, network, window, regions, RELEASED)
    tokens = combine_parts(tower.tail, parts, RELEASED)
    cells = values.get(f"w{number}_cells", slice(None))
    suffix = "_cells" if f"w{number}_cells" in values else ""
    expected = values[f"w{number}_d{suffix}"]
    if suffix:
        assert (len(expected), expected.shape[1]) == (len(cells), features.shape[1])
    np.testing.assert_allclose(features[cells], expected, atol=5e-6)
    for name, part in zip(("main", "spatial", "semantic"), parts, strict=True):
        np.testing.assert_allclose(part[cells], values[f"w{number}_{name}{suffix}"], atol=4e-5, err_msg=name)
    np.testing.assert_allclose(tokens[cells], values[f"w{number}_tokens{suffix}"], atol=5e-6)
    merged = merge_regions(features, values[f"w{number}_regions_grid"], int(values[f"w{number}_regions_grid"].min()),
                           RELEASED.merge_distance)
    np.testing.assert_array_equal(merged, values[f"w{number}_regions_merged"])
    assert grid == values[f"w{number}_regions_grid"].shape


@pytest.mark.parametrize(("case", "number"), list_windows(CASES))
def test_regions_are_joined_as_released(reference, case, number):
    values = reference(case)
    if f"w{number}_dist" not in values:
        pytest.skip("no regions to join")
    groups = group_close(values[f"w{number}_dist"], RELEASED.merge_distance)
    np.testing.assert_array_equal(groups, values[f"w{number}_cluster"])


@pytest.mark.parametrize("case", CASES)
def test_votes_match(reference, case):
    values = reference(case)
    regions = values["regions"]
    np.testing.assert_array_equal(vote_in_regions(values["label_threshold"], regions, skip=int(regions.min())),
                                  values["label_corrected"])


@pytest.mark.parametrize("case", CASES)
def test_regions_are_resized_as_released(reference, case):
    values = reference(case)
    if "regions_resized" not in values:
        pytest.skip("computed at the size of the image")
    resized = values["regions_resized"]
    np.testing.assert_array_equal(resize_ids(values["regions"], resized.shape), resized)


@pytest.mark.parametrize("case", [case for case in CASES
                                  if "resized" in Reference(FOLDER.parents[1], complete=False)(case)])
def test_labels_match(reference, case):
    """From the image to the labels; of each label at most 0.2 % may differ where two scores are as good as equal."""
    values, text = reference(case), reference("beyond/corrclip/text")
    size, side = values["resized"].shape[:2], int(values["crop"])
    windows = SlidingWindows(size, side, int(values["stride"]), 56)
    vectors = torch.from_numpy(text["names_features"])
    tower, network = build_tower(), build_network()
    cosines = []
    for number in range(int(values["n_windows"])):
        window, regions = cut_window(values, number)
        embeddings = embed_window(tower, network, window, regions, RELEASED)
        cosines.append((vectors @ embeddings.flatten(1)).unflatten(-1, embeddings.shape[1:]))
    logits = float(values["logit_scale"]) * windows.blend(torch.stack(cosines), values["image"].shape[:2])
    words = text["names_class"]
    groups = tuple(np.bincount(words).tolist())
    scores = select_best_words(logits.softmax(dim=0), WordVectors(vectors, groups, True))
    labels = scores.argmax(dim=0).numpy()
    assert (labels != values["label_argmax"]).mean() <= 0.002
    labels[scores.amax(dim=0).numpy() < float(values["thd"])] = 0
    assert (labels != values["label_threshold"]).mean() <= 0.002
    if "prob" in values:
        np.testing.assert_allclose(scores, values["prob"], atol=2e-5)
