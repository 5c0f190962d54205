# The published settings, for a GPU: networks learn from the 10,582 images of train_aug and are scored on train and val.
# Figure 6 and table 2 are those of the last of BASES. tests/published/csd.toml has the source of every value.
BASES := irn mctformer
LEARN ?= train_aug
# A devkit that has the list and the masks of train_aug needs no SBD: give SBD= (nothing).
SBD ?= benchmark_RELEASE
RECIPES := $(CURDIR)/../recipes

# IRN. Its released optimiser takes the weight decay for the momentum (1e-4), and the published numbers were made that way.
# Pasted images get the short side 384: views are 512 wide, and the paper gives no size for IRN.
IRN_WEIGHTS ?= IMAGENET1K_V1
BASE.irn := cam
WEIGHTS.irn ?= --weights $(IRN_WEIGHTS)
NET_FLAGS.irn ?= --net wsss:resnet50_irn --freeze layer2 --freeze-bn statistics --epochs 5 --batch-size 16 --lr 0.1 \
	--head-lr-factor 10 --momentum 1e-4 --weight-decay 1e-4 --crop-size 512 --long-side 320,640 --colour-jitter ''
CSD_FLAGS.irn ?= --short-side 384
MAPS.irn := cnn
CAM_FLAGS.irn ?= --config $(RECIPES)/irn-as-released.toml
AFFINITY.irn := irn
AFFINITY_FLAGS.irn ?= --config $(RECIPES)/irn-as-released.toml --weights $(IRN_WEIGHTS)
REFINE.irn := irn
REFINE_FLAGS.irn ?= --config $(RECIPES)/irn-as-released.toml
BACKGROUND.irn ?= --background constant:0.25
# The network of IRN's row is DeepLab-v2 on a ResNet-50 (table 1), which was not released: deeplab-v2.toml on
# torchvision's, and mirrored images at test time as IRN's author says.
SEG_FLAGS.irn ?= --config $(RECIPES)/deeplab-v2.toml --net torchvision:resnet50 --stride 8 --weights $(IRN_WEIGHTS)
SEGMENT_FLAGS.irn ?= --config $(RECIPES)/deeplab-v2.toml --flip

# MCTformer-V2: mctformer.toml. Its affinities are PSA's, at its own two backgrounds, and its network is ResNet-38 with
# LargeFOV. Both start from PSA's released classifier of VOC, res38_cls.pth.
MCT_WEIGHTS ?= fb_in1k
BASE.mctformer := mctformer
WEIGHTS.mctformer ?= --weights $(MCT_WEIGHTS)
NET_FLAGS.mctformer ?= --warmup 825 --as-released
CSD_FLAGS.mctformer ?=
MAPS.mctformer := mctformer
CAM_FLAGS.mctformer ?= --config $(RECIPES)/mctformer.toml
AFFINITY.mctformer := psa
RESNET38_WEIGHTS ?= res38_cls.pth
AFFINITY_FLAGS.mctformer ?= --config $(RECIPES)/mctformer.toml --weights $(RESNET38_WEIGHTS)
REFINE.mctformer := psa
REFINE_FLAGS.mctformer ?= --config $(RECIPES)/mctformer.toml
# The masks that objects are cut out by have another background than those of the row: CSD's development code.
PASTED.mctformer ?= --config $(RECIPES)/mctformer.toml --background constant:0.36
BACKGROUND.mctformer :=
SEG_FLAGS.mctformer ?= --config $(RECIPES)/resnet38-largefov.toml --weights $(RESNET38_WEIGHTS)
SEGMENT_FLAGS.mctformer ?= --config $(RECIPES)/resnet38-largefov.toml
