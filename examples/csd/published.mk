# The published settings, for a GPU: nets learn from train_aug, whose images are in a VOC devkit (its list is SBD's: give
# SBD=FOLDER), and are scored on train. Figure 6 and table 2 are those of the last of BASES.
BASES := irn mctformer
LEARN ?= train_aug

# IRN: the recipe irn.toml tells where each value is from. Views of the pasted images are as large as those it learns from.
IRN_WEIGHTS ?= IMAGENET1K_V1
BASE.irn := cam
WEIGHTS.irn ?= --weights $(IRN_WEIGHTS)
NET_FLAGS.irn ?= --net wsss:resnet50_irn --freeze layer2 --epochs 5 --lr 0.1 --crop-size 512 --long-side 320,640 \
	--colour-jitter ''
CSD_FLAGS.irn ?= --short-side 384
MAPS.irn := cnn
CAM_FLAGS.irn ?= --alignment cells
AFFINITY.irn := irn
AFFINITY_FLAGS.irn ?= --net wsss:resnet50_irn --weights $(IRN_WEIGHTS) --crop-size 512 --batch-size 32
REFINE.irn := irn
REFINE_FLAGS.irn ?=
BACKGROUND.irn ?= --background constant:0.25
SEG_FLAGS.irn ?= --config $(CURDIR)/../recipes/deeplab-v2.toml --weights $(SEG_WEIGHTS)
SEGMENT_FLAGS.irn ?= --config $(CURDIR)/../recipes/deeplab-v2.toml

# MCTformer-V2: mctformer.toml. Its affinities are PSA's, at its own two backgrounds, and its network is ResNet-38.
MCT_WEIGHTS ?= fb_in1k
BASE.mctformer := mctformer
WEIGHTS.mctformer ?= --weights $(MCT_WEIGHTS)
NET_FLAGS.mctformer ?= --warmup 825
CSD_FLAGS.mctformer ?=
MAPS.mctformer := mctformer
CAM_FLAGS.mctformer ?=
AFFINITY.mctformer := psa
RESNET38_WEIGHTS ?= resnet38_imagenet.pth
AFFINITY_FLAGS.mctformer ?= --net wsss:resnet38 --weights $(RESNET38_WEIGHTS) --freeze b2 --freeze-bn all \
	--optimizer sgd --lr 0.01 --head-lr-factor 10 --bias-lr-factor 2 --weight-decay 5e-4 --epochs 5 --crop-size 448 \
	--low-alpha 1 --high-alpha 12
REFINE.mctformer := psa
REFINE_FLAGS.mctformer ?= --background constant:0.39 --steps 64
BACKGROUND.mctformer :=
SEG_FLAGS.mctformer ?= --net wsss:resnet38 --weights $(RESNET38_WEIGHTS) --optimizer sgd --lr 7e-4 --head-lr-factor 10 \
	--weight-decay 1e-5 --crop-size 321 --scale-range 0.7,1.3 --batch-size 4 --epochs 30 --colour-jitter ''
SEGMENT_FLAGS.mctformer ?= --scales 0.5,0.75,1.0,1.25,1.5 --fusion max
# Its CRF is no preset's: Gaussian 4 px, weight 3; bilateral 83 px, 5 grey levels, weight 3.
SEGMENT_CRF.mctformer ?= --preset deeplab --gaussian-sxy 4 --gaussian-weight 3 --bilateral-sxy 83 --bilateral-srgb 5 \
	--bilateral-weight 3

# No library has weights of caffe's ResNet-101 by a tag: bring a file.
SEG_WEIGHTS ?= resnet101_caffe.pth
